// Package e2e tests Holdfast as its visitors meet it: whole web farms of real
// processes around a state server, and WebSockets with the libraries that
// applications use. It is a module of its own, so that what only these tests need
// is no dependency of the library.
package e2e
