package host_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

// hello makes a WebSocket through the front.
func (f *front) hello(t *testing.T) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := f.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "GET /socket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	b := bufio.NewReader(c)
	resp, err := http.ReadResponse(b, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-Websocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("%+v, %v", resp, err)
	}
	return c, b
}

// says sends a message and waits for its echo.
func says(t *testing.T, c net.Conn, b *bufio.Reader, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	echo := make([]byte, len(text))
	if _, err := io.ReadFull(b, echo); err != nil || string(echo) != text {
		t.Fatalf("echo %q, %v", echo, err)
	}
}

func TestWebSocket(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("app")})
	c, b := f.hello(t)
	for range 3 {
		says(t, c, b, "\x81\x05hello")
	}
	c.Close()
	f.printed("the socket is closed")
}

// A WebSocket is a request like others: a worker that is recycled keeps it for as long
// as Drain.
func TestWebSocketOutlivesARecycle(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("app"), Drain: time.Minute})
	c, b := f.hello(t)
	if err := f.Recycle(t.Context(), 0, "test"); err != nil {
		t.Fatal(err)
	}
	says(t, c, b, "still there")
	if n := len(f.Exits()); n != 0 {
		t.Errorf("%d workers have ended", n)
	}
	c.Close()
	eventually(t, "the old worker ends", func() bool { return len(f.Exits()) == 1 })
}

func TestEventsArriveAtOnce(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("app")})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", f.url+"/events", nil)
	resp, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for n := range 3 { // the response never ends by itself
		if !lines.Scan() || lines.Text() != fmt.Sprint("data: ", n) || !lines.Scan() {
			t.Fatalf("event %d: %q, %v", n, lines.Text(), lines.Err())
		}
	}
}

// large is how much goes up and down in a test: 64 MB or, with HOLDFAST_LONG=1, 1 GB.
func large() int64 {
	if os.Getenv("HOLDFAST_LONG") == "1" {
		return 1 << 30
	}
	return 64 << 20
}

// allocated runs f and returns how many bytes this process, which has the host and the
// client, has allocated meanwhile.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// What goes up and down is not kept on its way: the worker reads the beginning before
// the client has sent the end, and the host takes no memory for it.
func TestLargeBodiesAreNotKept(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("app")})
	n := large()
	for _, declared := range []bool{true, false} {
		t.Run(fmt.Sprint("up, length declared ", declared), func(t *testing.T) {
			body, send := io.Pipe()
			req, _ := http.NewRequest("POST", f.url+"/sink", body)
			if declared {
				req.ContentLength = n
			}
			seen := strings.Count(f.out.String(), "the upload begins")
			go func() {
				piece := make([]byte, 64<<10)
				_, _ = send.Write(piece)
				eventually(t, "the worker has the beginning", func() bool {
					return strings.Count(f.out.String(), "the upload begins") > seen
				})
				for rest := n - int64(len(piece)); rest > 0; rest -= int64(len(piece)) {
					_, _ = send.Write(piece)
				}
				send.Close()
			}()
			spent := allocated(func() {
				resp, err := f.client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				text, err := io.ReadAll(resp.Body)
				if want := fmt.Sprint(n, " <nil>"); string(text) != want || err != nil {
					t.Errorf("the worker has got %q, %v, want %q", text, err, want)
				}
			})
			if spent > n/4 {
				t.Errorf("%d bytes were allocated for %d", spent, n)
			}
		})
		t.Run(fmt.Sprint("down, length declared ", declared), func(t *testing.T) {
			path := fmt.Sprintf("/source?bytes=%d", n)
			if declared {
				path += "&length=1"
			}
			spent := allocated(func() {
				resp, err := f.client.Get(f.url + path)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if got, err := io.Copy(io.Discard, resp.Body); got != n || err != nil {
					t.Errorf("%d bytes, %v, want %d", got, err, n)
				}
			})
			if spent > n/4 {
				t.Errorf("%d bytes were allocated for %d", spent, n)
			}
		})
	}
}

// An upload that its worker refuses is not taken first, if the client asks whether to
// send it.
func TestUploadThatIsRefused(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("app")})
	c, err := f.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /refuse HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", 1<<40)
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("%v, %v, want 403", resp, err)
	}
}

// certificate writes a certificate and its key, and returns the certificate.
func certificate(t *testing.T, cert, key string, serial int64) *x509.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{"shop.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: text}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	made, _ := x509.ParseCertificate(der)
	return made
}

// Over TLS clients get HTTP/2, and a certificate that was renewed once its files are.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	roots := x509.NewCertPool()
	roots.AddCert(certificate(t, cert, key, 1))
	f := newFront(t, &host.Host{Command: command("app"), Proxy: host.Proxy{Certificate: cert, Key: key}})
	ask := func() (serial int64, proto, text string) {
		tr := &http.Transport{DialContext: f.dial, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get("https://shop.example/headers")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64(), resp.Proto, string(b)
	}
	serial, proto, text := ask()
	if serial != 1 || proto != "HTTP/2.0" || !strings.Contains(text, "X-Forwarded-Proto: https\r\n") {
		t.Errorf("certificate %d, %s:\n%s", serial, proto, text)
	}
	roots.AddCert(certificate(t, cert, key, 2))
	eventually(t, "the new certificate is shown", func() bool { serial, _, _ := ask(); return serial == 2 })
}

func TestHTTP2WithoutTLS(t *testing.T) {
	for _, allowed := range []bool{true, false} {
		f := newFront(t, &host.Host{Command: command("app"), Proxy: host.Proxy{H2C: allowed}})
		tr := &http.Transport{DialContext: f.dial, Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
		resp, err := (&http.Client{Transport: tr}).Get(f.url)
		switch {
		case allowed && (err != nil || resp.Proto != "HTTP/2.0"):
			t.Errorf("%v, %v", resp, err)
		case !allowed && err == nil:
			t.Errorf("HTTP/2 is spoken where it is not allowed: %s", resp.Proto)
		}
		if err == nil {
			resp.Body.Close()
		}
		tr.CloseIdleConnections()
	}
}

// When Serve is to end, requests that have begun are answered, and then it returns.
func TestServeLetsRequestsFinish(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("app")})
	body, send := io.Pipe()
	answer := make(chan string, 1)
	go func() {
		resp, err := f.client.Post(f.url+"/sink", "text/plain", body)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		answer <- string(text)
	}()
	_, _ = io.WriteString(send, "begun")
	f.printed("the upload begins")
	f.end()
	eventually(t, "nobody is let in any more", func() bool {
		c, err := f.dial(t.Context(), "", "")
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	_, _ = io.WriteString(send, " and done")
	send.Close()
	if text := <-answer; text != "14 <nil>" {
		t.Errorf("the request: %q", text)
	}
	err := <-f.served
	if err != nil {
		t.Errorf("Serve: %v", err)
	}
	f.served <- err
}
