package main

import (
	"testing"

	"github.com/holdfast-session/holdfast/examples/internal/routertest"
)

func TestMain(m *testing.M) { routertest.Main(m, main) }

func TestPages(t *testing.T) { routertest.Run(t) }
