package e2e

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// A screen is what a visitor holds or sits before.
type screen struct {
	width, height int64
	touch         bool
}

var (
	desktop = screen{width: 1280, height: 900}
	phone   = screen{width: 390, height: 844, touch: true}
)

// A tab is the one tab of a headless Chromium.
type tab struct {
	t      testing.TB
	ctx    context.Context
	screen screen
}

// browse starts a Chromium with an empty profile, and opens url when it has done what
// comes first.
func browse(t testing.TB, url string, s screen, first ...chromedp.Action[chromedp.Void]) *tab {
	t.Helper()
	ctx, _ := chromedp.NewContext(context.Background(), chromedp.WithAllocatorOptions(
		chromedp.DisableGPU,
		chromedp.NoSandbox, // root must not have it, containers often cannot; it sees our own pages only
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
	))
	if err := chromedp.Do(ctx); errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("There is no Chromium here, which the tests of the demo need: run scripts/install, or install Chromium or Chrome. (%v)", err)
	} else if err != nil {
		t.Fatal(err)
	}
	messages := chromedp.Console(ctx)
	var reading sync.WaitGroup
	reading.Go(func() {
		for m, err := range messages {
			if err != nil {
				return // it was closed
			}
			t.Errorf("the browser says: %s (%s)", m, m.URL)
		}
	})
	t.Cleanup(func() {
		closing, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := chromedp.Cancel(closing); err != nil {
			t.Errorf("closing Chromium: %v", err)
		}
		reading.Wait()
	})
	b := &tab{t, ctx, s}
	b.do(first...)
	b.resize(s, "light")
	b.answered(chromedp.Run(b.within(), chromedp.NavigateResponse(url)))
	return b
}

// within is the context of one step.
func (b *tab) within() context.Context {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	b.t.Cleanup(cancel)
	return ctx
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.within(), steps...); err != nil {
		b.t.Fatal(err)
	}
}

// see returns what an action gets from the page.
func see[T any](b *tab, a chromedp.Action[T]) T {
	b.t.Helper()
	v, err := chromedp.Run(b.within(), a)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// answered wants a page that is well.
func (b *tab) answered(res *network.Response, err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	if res == nil || res.Status != 200 {
		b.t.Fatalf("the page is %+v", res)
	}
}

// link and button find what a person would click at, by its text or its label.
func link(text string) chromedp.Search   { return clickable("a", text) }
func button(text string) chromedp.Search { return clickable("button", text) }

func clickable(what, text string) chromedp.Search {
	return chromedp.Search(fmt.Sprintf("//%s[normalize-space()=%[2]q or @aria-label=%[2]q]", what, text))
}

// click clicks, or taps, and waits for the page that comes of it.
func (b *tab) click(at chromedp.Search) {
	b.t.Helper()
	click := chromedp.Click(at)
	if b.screen.touch {
		click = chromedp.Tap(at)
	}
	res, err := chromedp.RunResponse(b.within(), click)
	if err != nil {
		b.t.Fatalf("click at %s: %v", at, err)
	}
	b.answered(res, err)
}

// reload asks for the page again.
func (b *tab) reload() {
	b.t.Helper()
	b.do(chromedp.Reload())
}

// text is what can be read in an element.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return strings.TrimSpace(see(b, chromedp.Text(chromedp.CSS(selector))))
}

// says wants all of these to be read on the page, wherever its lines end.
func (b *tab) says(wants ...string) {
	b.t.Helper()
	if lacks, text := b.lacks(wants); lacks != "" {
		b.t.Fatalf("the page does not say %q:\n%s", lacks, text)
	}
}

// comesToSay waits until all of these can be read on the page, which nobody loads anew.
func (b *tab) comesToSay(wants ...string) {
	b.t.Helper()
	within := b.within()
	for {
		lacks, text := b.lacks(wants)
		if lacks == "" {
			return
		}
		if within.Err() != nil {
			b.t.Fatalf("the page never came to say %q:\n%s", lacks, text)
		}
	}
}

// lacks returns the first of these that cannot be read on the page, and what can.
func (b *tab) lacks(wants []string) (lacks, text string) {
	b.t.Helper()
	text = strings.Join(strings.Fields(b.text("main")), " ")
	for _, want := range wants {
		if !strings.Contains(text, want) {
			return want, text
		}
	}
	return "", text
}

// resize makes the screen another one, in the light or in the dark.
func (b *tab) resize(s screen, scheme string) {
	b.t.Helper()
	var how []chromedp.EmulateViewportOption
	if s.touch {
		how = append(how, chromedp.EmulateTouch, chromedp.EmulateMobile, chromedp.EmulatePortrait)
	}
	b.do(chromedp.EmulateViewport(s.width, s.height, how...))
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme},
		{Name: "prefers-reduced-motion", Value: "reduce"},
	}}
	if _, err := chromedp.Call(b.within(), emulation.SetEmulatedMedia, media); err != nil {
		b.t.Fatal(err)
	}
}

//go:embed testdata/look.js
var lookScript string

// look looks at the page on screens of many sizes, in the light and in the dark. It
// keeps pictures of them in the folder that HOLDFAST_SCREENSHOTS names.
func (b *tab) look(name string) {
	b.t.Helper()
	for _, s := range []screen{{320, 640, true}, {375, 667, true}, phone, {500, 900, false}, {768, 1024, false}, {1024, 768, false}, desktop} {
		for _, scheme := range []string{"light", "dark"} {
			b.resize(s, scheme)
			for _, wrong := range see(b, chromedp.Evaluate[[]string](lookScript)) {
				b.t.Errorf("%s, %d px, %s: %s", name, s.width, scheme, wrong)
			}
			if dir := os.Getenv("HOLDFAST_SCREENSHOTS"); dir != "" {
				b.picture(filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, s.width, scheme)))
			}
		}
	}
	b.resize(b.screen, "light")
}

func (b *tab) picture(file string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(file, see(b, chromedp.FullScreenshot(100)), 0o666); err != nil {
		b.t.Fatal(err)
	}
}
