module github.com/holdfast-session/holdfast/examples

go 1.26

require github.com/holdfast-session/holdfast v0.0.0

require (
	github.com/fxamacker/cbor/v2 v2.9.6 // indirect
	github.com/x448/float16 v0.8.4 // indirect
)

replace github.com/holdfast-session/holdfast => ../
