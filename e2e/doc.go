// Package e2e tests Holdfast as its visitors meet it: whole web farms of real
// processes around a state server, WebSockets with the libraries that applications
// use, and the demo in a browser, which is a headless Chromium that scripts/install
// installs. HOLDFAST_SCREENSHOTS names a folder for pictures of the demo's pages. It
// is a module of its own, so that what only these tests need is no dependency of the
// library.
package e2e
