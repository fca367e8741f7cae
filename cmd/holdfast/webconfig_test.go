package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWebconfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.config")
	text := `<configuration>
  <system.web>
    <sessionState mode="SQLServer" timeout="30" sqlConnectionString="data source=db;user id=web;password=s3cret"
        sqlCommandTimeout="3" cookieSameSite="Strict" useHostingIdentity="false" />
    <httpCookies domain="shop.example" requireSSL="true" />
  </system.web>
  <location path="admin">
    <system.web><sessionState cookieless="UseUri" mode="Off" /></system.web>
  </location>
</configuration>`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	webconfig := func(args ...string) (string, string, int) {
		var out, errs bytes.Buffer
		status := run(append([]string{"webconfig"}, args...), &out, &errs)
		return out.String(), errs.String(), status
	}
	out, errs, status := webconfig(file)
	if status != 0 || strings.Contains(out, "s3cret") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	want := `store                    sqlserver://…@db?aspstate=1&database=ASPState
Options.Timeout          30m0s
Options.StoreTimeout     3s
Options.Cookie.Name      ASP.NET_SessionId
Options.Cookie.Domain    shop.example
Options.Cookie.Secure    holdfast.Always
Options.Cookie.SameSite  http.SameSiteStrictMode

mode
  with aspstate=1 the tables are those of ASP.NET, whose sessions can be shared,
  and what they cannot keep is lost: go doc sqlstore.ASPState. Without it
  Holdfast has a table of its own in the database (install=1 makes it)

mode
  to share sessions with the ASP.NET application, set Options.App to its
  AppDomainAppId, such as /LM/W3SVC/1/ROOT, and Options.PlainIDs; otherwise
  leave both

useHostingIdentity
  the store is always called as the process; nobody is impersonated
`
	if out != want {
		t.Errorf("printed:\n%s\nwant:\n%s", out, want)
	}
	if out, errs, status := webconfig("--secrets", file); status != 0 || !strings.Contains(out, "sqlserver://web:s3cret@db?aspstate=1&database=ASPState\n") {
		t.Errorf("--secrets: status %d: %s%s", status, out, errs)
	}
	out, errs, status = webconfig("--location", "admin", file)
	if status != 0 || !strings.HasPrefix(out, "store             off:\n") || !strings.Contains(out, "Options.Identity  holdfast.Cookieless()\n") || strings.Contains(out, "Cookie.Name") {
		t.Errorf("--location: status %d: %s%s", status, out, errs)
	}

	for args, want := range map[string]string{
		"--location bank " + file: "there is one for the location admin",
		"/no/such/web.config":     "no such file",
		"":                        "web.config, is missing",
	} {
		if _, errs, status := webconfig(strings.Fields(args)...); status != 1 || !strings.Contains(errs, want) {
			t.Errorf("%s: status %d: %s", args, status, errs)
		}
	}
	if err := os.WriteFile(file, []byte(`<sessionState mode="Custom" customProvider="P"><providers><add name="P" type="Shop.Store"/></providers></sessionState>`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, status := webconfig(file); status != 0 || !strings.Contains(out, "(the file does not say; see below)") || !strings.Contains(out, "docs/custom-store.md") {
		t.Errorf("a provider of one's own: status %d: %s%s", status, out, errs)
	}
}
