package mode_test

import (
	"context"
	"fmt"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/mode"
)

// An application goes on where its web.config says that the sessions are.
func ExampleParseWebConfig() {
	text := []byte(`<configuration>
  <system.web>
    <sessionState mode="StateServer" stateConnectionString="tcpip=loopback:42424"
        timeout="30" compressionEnabled="true" />
    <httpCookies requireSSL="true" domain="shop.example" />
  </system.web>
</configuration>`) // os.ReadFile("web.config")

	c, err := mode.ParseWebConfig(text, "")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, n := range c.Notes {
		fmt.Println(n.Setting) // the text of each says what to do
	}
	s, err := mode.Open(c.Spec)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()
	o := &holdfast.Options{
		Timeout:      c.Timeout,
		StoreTimeout: c.StoreTimeout,
		Cookie:       holdfast.Cookie{Name: c.CookieName, Domain: c.CookieDomain, SameSite: c.SameSite},
	}
	if c.RequireSSL {
		o.Cookie.Secure = holdfast.Always
	}
	if c.Cookieless {
		o.Identity = holdfast.Cookieless()
	}
	sessions := holdfast.New(s, o)
	defer sessions.Close(context.Background())
	fmt.Println(c.Spec, o.Timeout, o.Cookie.Name)
	// Output:
	// compressionEnabled
	// mode
	// stateConnectionString
	// tcpip=localhost:42424 30m0s ASP.NET_SessionId
}
