package e2e

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// demo starts holdfast demo and returns the address of its shop.
func demo(t testing.TB, args ...string) (url string) {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, exec.Command(path, append([]string{"demo", "--listen", "127.0.0.1:0"}, args...)...))
	t.Cleanup(func() {
		if err := p.cmd.Process.Signal(os.Interrupt); err != nil { // not on Windows
			p.kill()
		}
	})
	if !strings.HasPrefix(p.addr, "http://") {
		t.Fatalf("the demo is ready on %q", p.addr)
	}
	return p.addr
}

// kill clicks at the button that kills the worker, and returns the PID of the dead.
func (b *tab) kill() (pid string) {
	b.t.Helper()
	pid = b.text("#pid")
	b.click(button("Kill this worker"))
	if now := b.text("#pid"); now == pid {
		b.t.Fatalf("worker %s answers from the grave", pid)
	}
	return pid
}

// inCart wants so many articles to be counted at the top of the page.
func (b *tab) inCart(want int) {
	b.t.Helper()
	if got := b.text("#cart-count"); got != strconv.Itoa(want) {
		b.t.Fatalf("there are %s articles in the cart, want %d:\n%s", got, want, b.text("main"))
	}
}

// TestDemo: somebody shops while the workers are killed, one after the other, and
// loses nothing: neither on a desktop nor on a phone whose browser runs no scripts.
func TestDemo(t *testing.T) {
	noScripts := chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	})
	for _, c := range []struct {
		name   string
		screen screen
		first  []chromedp.Action[chromedp.Void]
	}{
		{"desktop", desktop, nil},
		{"phone without scripts", phone, []chromedp.Action[chromedp.Void]{noScripts}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := browse(t, demo(t), c.screen, c.first...)
			b.click(button("Add Three-strand manila to the cart"))
			b.says("Three-strand manila is in your cart.")
			b.click(link("Anchor lamp"))
			b.do(chromedp.SetValue(chromedp.CSS("input[name=qty]"), "2"))
			b.click(button("Add to cart"))
			b.inCart(3)

			b.click(link("Cart 3"))
			session := b.text("#session")
			for range 4 {
				dead := b.kill()
				b.says("Worker process "+dead+" is dead. Your session is not.", "the 3 articles in your cart are still there",
					"Three-strand manila", "Anchor lamp", "€312.00")
				b.inCart(3)
				if got := b.text("#session"); got != session || b.text("#mode") != "StateServer" {
					t.Fatalf("after the kill the session is %s, %s; it was %s", got, b.text("#mode"), session)
				}
			}

			b.click(button("Recycle this worker"))
			b.says("was recycled. Your session was not lost.", "the 3 articles in your cart are still there")
			b.click(button("Touch config.yaml"))
			b.says("config.yaml was touched, and nothing was recycled.")
			b.click(button("Change config.yaml"))
			b.says("config.yaml has changed, and every worker was recycled. Your session was not lost.")
			b.inCart(3)
			b.click(link("The journal: what happened, and why"))
			b.says("recycled requested by the button on the page", "recycled file changed config.yaml has changed", "which finds 3 articles in your cart")

			b.click(link("Sign in"))
			b.do(chromedp.SendKeys(chromedp.CSS("#name"), "Ada"))
			b.click(button("Sign in"))
			b.says("Welcome aboard, Ada.")
			if b.text("#session") == session {
				t.Error("signed in, the session has the ID that it had before")
			}
			for range 2 {
				b.kill()
				b.inCart(3)
				b.do(chromedp.WaitVisible(button("Sign out")))
			}
			b.click(link("Cart 3"))
			b.click(button("Place the order"))
			b.says("Thank you, Ada", "3 articles for €312.00")
			b.kill()
			b.says("Thank you, Ada", "3 articles for €312.00")

			b.click(button("Sign out"))
			b.says("You are signed out.")
			b.inCart(0)
			// Going back shows no page of before from the browser's memory.
			b.do(chromedp.NavigateBack())
			b.do(chromedp.WaitVisible(link("Sign in")))
			b.inCart(0)
			b.kill()
			b.do(chromedp.WaitVisible(link("Sign in")))
		})
	}
}

// TestDemoInProc: where the workers keep the sessions themselves, the same click
// loses the cart, and the page says why.
func TestDemoInProc(t *testing.T) {
	t.Run("one worker", func(t *testing.T) {
		b := browse(t, demo(t, "--mode", "inproc"), desktop)
		b.click(button("Add Three-strand manila to the cart"))
		b.click(button("Add Ship’s bell to the cart"))
		b.click(link("Cart 2"))
		b.says("Three-strand manila", "Ship’s bell", "€126.00")
		dead := b.kill()
		b.inCart(0)
		b.says("Your session was lost at ", ", because worker 1 was killed by the button on the page.",
			"It was kept in the memory of worker 1 (PID "+dead+"), and ended with it", "There is nothing in it yet")
		b.click(link("Shop"))
		b.click(button("Add Ship’s bell to the cart"))
		b.click(button("Change config.yaml"))
		b.inCart(0)
		b.says("Your session was lost at ", ", because config.yaml has changed.")
		b.look("lost")
	})
	t.Run("two workers", func(t *testing.T) {
		b := browse(t, demo(t, "--mode", "inproc", "--workers", "2"), desktop)
		b.click(button("Add Three-strand manila to the cart"))
		for _, want := range []string{"0", "1", "0"} {
			within := b.within()
			for b.text("#cart-count") != want {
				if within.Err() != nil {
					t.Fatalf("it never came about that there are %s articles in the cart", want)
				}
				b.reload()
			}
		}
		b.says("This worker does not know your session", "2 workers take turns here, each with sessions of its own")
		b.look("flicker")
	})
}

// TestDemoJournal: the page of the journal shows, while it is looked at, that workers
// are recycled, and why, and that the cart is still there.
func TestDemoJournal(t *testing.T) {
	t.Parallel() // it waits for a leak
	b := browse(t, demo(t), desktop)
	config := b.text("#config")
	b.click(button("Add Three-strand manila to the cart"))
	b.click(button("Add Ship’s bell to the cart"))
	b.click(link("The journal: what happened, and why"))
	b.says("host started", "which finds 2 articles in your cart")

	// Somebody saves the file, and then touches it.
	if err := os.WriteFile(config, []byte("motto: CLOSED FOR THE WINTER\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.comesToSay("recycled file changed config.yaml has changed", "ended file changed")
	now := time.Now()
	if err := os.Chtimes(config, now, now); err != nil {
		t.Fatal(err)
	}
	b.comesToSay("ignored file changed config.yaml: touched, and the same")

	// A worker leaks until it is recycled. Meanwhile the others answer.
	b.click(button("Leak memory"))
	b.says("has sprung a leak")
	b.comesToSay("recycled memory limit", "MiB used, the limit is 128.0 MiB")
	b.comesToSay("which finds 2 articles in your cart", " 0 failed.")
	b.inCart(2)
	b.click(button("Recycle this worker"))
	b.says("was recycled. Your session was not lost.", "recycled requested by the button on the page")
	b.look("journal")

	b.click(link("Shop"))
	b.inCart(2)
	b.says("CLOSED FOR THE WINTER")
}

// TestDemoHandover: sessions in the memory of a worker come along when it is recycled.
func TestDemoHandover(t *testing.T) {
	b := browse(t, demo(t, "--mode", "inproc", "--handover"), phone)
	b.click(button("Add Three-strand manila to the cart"))
	before := b.text("#pid")
	b.click(button("Recycle this worker"))
	b.says("was recycled. Your session was not lost.", "the article in your cart is still there")
	if b.text("#pid") == before || b.text("#mode") != "InProc" {
		t.Errorf("worker %s, %s; it was worker %s", b.text("#pid"), b.text("#mode"), before)
	}
	b.click(link("The journal: what happened, and why"))
	b.comesToSay("Sessions: 1 carried over", "which finds 1 article in your cart")
}

// TestDemoLook looks at all pages, with the longest name that a visitor can have.
func TestDemoLook(t *testing.T) {
	t.Parallel()
	b := browse(t, demo(t), desktop)
	b.look("shop")
	b.click(link("Cart 0"))
	b.look("cart-empty")
	b.click(link("Shop"))
	b.click(link("Cork life ring"))
	b.look("product")
	b.do(chromedp.SetValue(chromedp.CSS("input[name=qty]"), "99"))
	b.click(button("Add to cart"))
	b.click(link("Shop"))
	b.click(button("Add Fisherman anchor to the cart"))
	b.kill()
	b.look("shop-killed")
	b.click(link("Sign in"))
	b.look("signin")
	b.do(chromedp.SendKeys(chromedp.CSS("#name"), "Maximilian von Hohenlohe-Schillingsfürst"))
	b.click(button("Sign in"))
	b.look("shop-signed-in")
	b.click(link("Cart 100"))
	b.look("cart")
	b.click(button("Place the order"))
	b.look("thanks")
}
