module github.com/holdfast-session/holdfast/examples

go 1.26

require github.com/holdfast-session/holdfast v0.0.0

replace github.com/holdfast-session/holdfast => ../
