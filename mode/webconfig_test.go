package mode

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sessionState is the element with these attributes and children.
func sessionState(attrs string, children ...string) string {
	return "<sessionState " + attrs + ">" + strings.Join(children, "") + "</sessionState>"
}

func redisProvider(attrs string) string {
	return sessionState(`mode="Custom" customProvider="R"`, `<providers><add name="R" type="Microsoft.Web.Redis.RedisSessionStateProvider, X" `+attrs+`/></providers>`)
}

func TestParseWebConfig(t *testing.T) {
	for text, want := range map[string]WebConfig{
		`<sessionState/>`:                                        {Mode: "InProc", Spec: "inproc:"},
		sessionState(`mode="Off"`):                               {Mode: "Off", Spec: "off:"},
		sessionState(`mode="InProc" timeout="5"`):                {Mode: "InProc", Spec: "inproc:", Timeout: 5 * time.Minute},
		sessionState(`timeout="525600"`):                         {Mode: "InProc", Spec: "inproc:", Timeout: longest},
		sessionState(`mode="StateServer"`):                       {Mode: "StateServer", Spec: "tcpip=localhost:42424"},
		sessionState(`cookieName="id"`):                          {Mode: "InProc", Spec: "inproc:", CookieName: "id"},
		sessionState(`cookieless="UseUri"`):                      {Mode: "InProc", Spec: "inproc:", Cookieless: true},
		sessionState(`cookieless="true"`):                        {Mode: "InProc", Spec: "inproc:", Cookieless: true},
		sessionState(`cookieless="AutoDetect"`):                  {Mode: "InProc", Spec: "inproc:"},
		sessionState(`cookieSameSite="None"`):                    {Mode: "InProc", Spec: "inproc:", SameSite: http.SameSiteNoneMode},
		sessionState(`cookieSameSite="(-1)"`):                    {Mode: "InProc", Spec: "inproc:", SameSite: http.SameSiteDefaultMode},
		sessionState(`lockItem="true" lockElements="providers"`): {Mode: "InProc", Spec: "inproc:"},
		sessionState(`mode="StateServer" stateConnectionString="tcpip=[::1]:42424" stateNetworkTimeout="7"`): {
			Mode: "StateServer", Spec: "tcpip=[::1]:42424", StoreTimeout: 7 * time.Second},
		sessionState(`mode="StateServer" stateNetworkTimeout="Infinite"`):        {Mode: "StateServer", Spec: "tcpip=localhost:42424"},
		sessionState(`mode="StateServer" partitionResolverType="Shop.Resolver"`): {Mode: "StateServer"},
		sessionState(`mode="SQLServer" sqlConnectionString="data source=db;user id=web;password=s3cret"`): {
			Mode: "SQLServer", Spec: "sqlserver://web:s3cret@db?aspstate=1&database=ASPState"},
		sessionState(`mode="SQLServer" sqlConnectionString='SERVER = tcp:db.example , 1533 ; UID=web; Pwd="s3 @;""cret/"; Encrypt=True; TrustServerCertificate=true; Max Pool Size=5' sqlCommandTimeout="8" sqlConnectionRetryInterval="2"`): {
			Mode: "SQLServer", Spec: "sqlserver://web:s3%20%40;%22cret%2F@db.example:1533?TrustServerCertificate=true&aspstate=1&database=ASPState&encrypt=true", StoreTimeout: 10 * time.Second},
		sessionState(`mode="SQLServer" sqlConnectionString="data source=.\SQLEXPRESS;trusted_connection=yes;database=S" allowCustomSqlDatabase="true"`): {
			Mode: "SQLServer", Spec: "sqlserver://localhost/SQLEXPRESS?aspstate=1&database=S"},
		sessionState(`mode="SQLServer"`): {Mode: "SQLServer", Spec: "sqlserver://localhost?aspstate=1&database=ASPState"},
		sessionState(`mode="SQLServer" sqlConnectionString="data source=(localdb)\v11.0;integrated security=sspi"`):          {Mode: "SQLServer"},
		sessionState(`mode="SQLServer" sqlConnectionString="registry:HKLM\SOFTWARE\x,sql"`):                                  {Mode: "SQLServer"},
		sessionState(`mode="Custom" customProvider="P"`, `<providers><clear/><add name="P" type="Shop.Store"/></providers>`): {Mode: "Custom"},
		redisProvider(`host="cache" accessKey="s3cret/+="`):                                                                  {Mode: "Custom", Spec: "rediss://:s3cret%2F+=@cache:6380/0"},
		redisProvider(`ssl="false" port="1234" databaseId="3"`):                                                              {Mode: "Custom", Spec: "redis://localhost:1234/3"},
		redisProvider(`connectionString="c:1,password=s3cret"`):                                                              {Mode: "Custom"},
		`<?xml version="1.0" encoding="utf-8"?><configuration xmlns="http://schemas.microsoft.com/.NetConfiguration/v2.0">
			<connectionStrings><add name="State" connectionString="server=db;uid=u;pwd=p"/></connectionStrings>
			<system.web><httpCookies requireSSL="true" domain="shop.example"/>` +
			sessionState(`mode="SQLServer" sqlConnectionString="State"`) + `</system.web></configuration>`: {
			Mode: "SQLServer", Spec: "sqlserver://u:p@db?aspstate=1&database=ASPState", RequireSSL: true, CookieDomain: "shop.example"},
		`<configuration><location path="."><system.web>` + sessionState(`mode="Off"`) + `</system.web></location></configuration>`: {Mode: "Off", Spec: "off:"},
		`<system.web>` + sessionState(`mode="Off"`) + `</system.web>`:                                                              {Mode: "Off", Spec: "off:"},
		sessionState(`mode="SQLServer" compressionEnabled="true"`):                                                                 {Mode: "SQLServer", Spec: "sqlserver://localhost?aspstate=1&compress=1&database=ASPState"},
		`<configuration/>`: {Mode: "InProc", Spec: "inproc:"},
	} {
		if want.Timeout == 0 {
			want.Timeout = 20 * time.Minute
		}
		if want.CookieName == "" {
			want.CookieName = "ASP.NET_SessionId"
		}
		if want.SameSite == 0 {
			want.SameSite = http.SameSiteLaxMode
		}
		got, err := ParseWebConfig([]byte(text), "")
		if err != nil {
			t.Errorf("%s\n%v", text, err)
			continue
		}
		if diff := cmp.Diff(&want, got, cmpopts.IgnoreFields(WebConfig{}, "Notes")); diff != "" {
			t.Errorf("%s (-want +got)\n%s", text, diff)
		}
		if got.Spec == "" && len(got.Notes) == 0 {
			t.Errorf("%s\nnothing can be opened, and no note says why", text)
		}
		if notes := fmt.Sprint(got.Notes); strings.Contains(notes, "s3") || strings.Contains(notes, "cret") {
			t.Errorf("%s\na secret is in the notes: %s", text, notes)
		}
		if got.Spec != "" {
			if _, err := parse(got.Spec); err != nil {
				t.Errorf("%s\nOpen would not take %q: %v", text, got.Spec, err)
			}
		}
	}
}

// TestWebConfigNotes: whatever has no counterpart is told, and nothing else.
func TestWebConfigNotes(t *testing.T) {
	for attrs, want := range map[string]string{
		`mode="InProc" timeout="20" cookieless="UseCookies" compressionEnabled="false"`: "",
		`mode="Off"`:                     "",
		`mode="StateServer" timeout="7"`: "mode: to share; stateConnectionString: if this is Microsoft's",
		`mode="StateServer" stateNetworkTimeout="Infinite"`:                                                             "mode: ; stateConnectionString: ; stateNetworkTimeout: a call of the store has an end",
		`mode="StateServer" partitionResolverType="X"`:                                                                  "mode: ; partitionResolverType: its code says where the state servers are",
		`mode="SQLServer" sqlCommandTimeout="0"`:                                                                        "mode: with aspstate=1; mode: ; sqlCommandTimeout: a call; sqlConnectionString: it signs in as the Windows account",
		`mode="SQLServer" partitionResolverType="X"`:                                                                    "mode: ; partitionResolverType: its code says where the databases are",
		`mode="SQLServer" sqlConnectionString="Named"`:                                                                  "mode: ; sqlConnectionString: it names a connection string that is not in this file",
		`mode="SQLServer" sqlConnectionString="server=d;uid=u;pooling=no;app=x"`:                                        "mode: ; mode: ; sqlConnectionString: these say nothing here and were left out: app, pooling",
		`mode="SQLServer" sqlConnectionString="server=d;uid=u;pwd=a;s3cret=x;Server SPN=y;Authentication=Sql Password"`: "mode: ; mode: ; sqlConnectionString: these say nothing here and were left out: server spn, what is not known here",
		`mode="SQLServer" sqlConnectionString="server=d;Authentication=Active Directory Integrated"`:                    "mode: ; sqlConnectionString: it signs in by a service",
		`mode="SQLServer" allowCustomSqlDatabase="true" sqlConnectionString="server=d;uid=u;attachdbfilename=x"`:        "mode: ; sqlConnectionString: a database that is attached",
		`mode="SQLServer" timeout="Infinite" sqlConnectionString="server=d;uid=u"`:                                      "mode: ; mode: ; timeout: a session always ends some time",
		`compressionEnabled="true"`:                                                                                     "",
		`mode="StateServer" compressionEnabled="true"`:                                                                  "compressionEnabled: Holdfast does not compress; mode: ; stateConnectionString: ",
		`regenerateExpiredSessionId="false" useHostingIdentity="false"`:                                                 "regenerateExpiredSessionId: ; useHostingIdentity: ",
		`sessionIDManagerType="Shop.IDs"`:                                                                               "sessionIDManagerType: its code makes the IDs",
		`cookieless="UseDeviceProfile"`:                                                                                 "cookieless: UseDeviceProfile has no counterpart",
		`xmlns:xdt="x" xdt:Transform="SetAttributes"`:                                                                   "mode: this is a file that changes another one",
	} {
		c, err := ParseWebConfig([]byte(sessionState(attrs)), "")
		if err != nil {
			t.Errorf("%s: %v", attrs, err)
			continue
		}
		checkNotes(t, attrs, c.Notes, want)
	}
	c, err := ParseWebConfig([]byte(`<configuration><connectionStrings configSource="c.config"/><system.web><httpCookies requireSSL="true"/></system.web></configuration>`), "")
	if err != nil {
		t.Fatal(err)
	}
	checkNotes(t, "a file without the element", c.Notes, "cookieName: with Cookie.Secure Always; mode: there is no <sessionState> in this file; sqlConnectionString: <connectionStrings> is in another file")
	if c, err = ParseWebConfig([]byte(redisProvider(``)), ""); err != nil {
		t.Fatal(err)
	}
	checkNotes(t, "Redis", c.Notes, "customProvider: sessions begin anew")
}

// checkNotes wants notes that begin with these texts, each of which is the setting and
// the beginning of what is said.
func checkNotes(t *testing.T, what string, notes []Note, want string) {
	t.Helper()
	var texts []string
	if want != "" {
		texts = strings.Split(want, "; ")
	}
	for i, n := range notes {
		if i < len(texts) && strings.HasPrefix(n.String(), texts[i]) {
			continue
		}
		t.Errorf("%s: note %d is %q", what, i, n)
	}
	if len(notes) < len(texts) {
		t.Errorf("%s: %d notes, want %q", what, len(notes), texts)
	}
}

func TestWebConfigMistakes(t *testing.T) {
	for text, want := range map[string]string{
		``:   "is not XML",
		`<a`: "line 1 is not XML",
		"<sessionState mode='SQLServer'\nsqlConnectionString='pwd=a&s3cret;'/>": "line 2 is not XML; in a value, & is written as &amp;",
		`<html/>`:                                                                                                  "<html> is neither <configuration> nor <sessionState>",
		`<sessionState mode="Off" mode="Off"/>`:                                                                    "an attribute twice",
		sessionState(`mode="inproc"`):                                                                              `mode="inproc": want Custom, InProc, Off, SQLServer, StateServer`,
		sessionState(`timeOut="5"`):                                                                                `no attribute "timeOut"; did you mean timeout?`,
		sessionState(`timeout="0"`):                                                                                `timeout="0": want a number of minutes from 1, or Infinite`,
		sessionState(`timeout="Infinite"`):                                                                         "a year, 525600 minutes, is the most in the mode InProc",
		sessionState(`timeout="525601"`):                                                                           "a year",
		sessionState(`timeout="99999999999999999999"`):                                                             "want a number of minutes",
		sessionState(`stateNetworkTimeout="0"`):                                                                    "want a number of seconds from 1",
		sessionState(`compressionEnabled="maybe"`):                                                                 "want true or false",
		sessionState(`cookieless="Auto"`):                                                                          "want AutoDetect, UseCookies",
		sessionState(`cookieName="a b"`):                                                                           "cannot be sent",
		sessionState(`configSource="session.config"`):                                                              "is in another file (configSource), session.config",
		sessionState(`configProtectionProvider="X"`, `<EncryptedData/>`):                                           "is encrypted; decrypt",
		sessionState(`partitionResolverType="X"`):                                                                  "is for the modes StateServer and SQLServer",
		sessionState(`mode="StateServer" stateConnectionString="s3cret=host"`):                                     "want tcpip=host:port",
		sessionState(`mode="StateServer" stateConnectionString="tcpip=s3cret"`):                                    "want tcpip=host:port",
		sessionState(`mode="StateServer" stateConnectionString="tcpip=h:0"`):                                       "with a port up to 65535",
		sessionState(`mode="StateServer" stateConnectionString="tcpip=h:70000"`):                                   "with a port up to 65535",
		sessionState(`mode="SQLServer" sqlConnectionString="server=d;uid=u;initial catalog=X"`):                    "names a database, and allowCustomSqlDatabase is not true",
		sessionState(`mode="SQLServer" sqlConnectionString="server=d;pwd=a;s3cret"`):                               "a value with a semicolon in it stands in quotes",
		`<?xml version="1.0" encoding="utf-16"?><sessionState/>`:                                                   "it is encoded as utf-16; save it as UTF-8",
		"\xff\xfe<\x00s\x00":                                                                                       "it is encoded as UTF-16; save it as UTF-8",
		`<?xml version="1.0" encoding="shift_jis"?><sessionState/>`:                                                "it is encoded as shift_jis; save it as UTF-8",
		sessionState(`mode="SQLServer" sqlConnectionString="server=d;pwd='s3cret"`):                                "a quote is not closed",
		sessionState(`mode="SQLServer" sqlConnectionString="server=d;pwd='a's3cret"`):                              "something follows a value in quotes",
		sessionState(`mode="SQLServer" sqlConnectionString="server=d"`):                                            "neither a User ID nor Integrated Security",
		sessionState(`mode="Custom"`):                                                                              "want a customProvider",
		sessionState(`mode="Custom" customProvider="P"`):                                                           "want a customProvider that is the name of one",
		redisProvider(`port="x"`):                                                                                  "host, port or databaseId",
		`<configuration><system.web><sessionState/><sessionState/></system.web></configuration>`:                   "is there twice",
		`<configuration><location path="shop"><system.web><sessionState/></system.web></location></configuration>`: "no <sessionState> for the application itself; there is one for the location shop",
		sessionState(`mode="x" timeout="y"`):                                                                       "timeout=\"y\"", // and both are told
	} {
		c, err := ParseWebConfig([]byte(text), "")
		if err == nil {
			t.Errorf("%s\nit was read: %+v", text, c)
			continue
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s\n%v\nwant %q", text, err, want)
		}
	}
}

// TestWebConfigEncodings has files that are not UTF-8, as older editors wrote them.
func TestWebConfigEncodings(t *testing.T) {
	for encoding, text := range map[string]string{
		"iso-8859-1":   "cl\xe9",
		"windows-1252": "cl\xe9\x80",
		"us-ascii":     "key",
		"UTF-8":        "clé€",
	} {
		c, err := ParseWebConfig([]byte(`<?xml version="1.0" encoding="`+encoding+`"?>`+"\r\n"+redisProvider(`host="h" accessKey="`+text+`"`)), "")
		want := map[string]string{"iso-8859-1": "clé", "us-ascii": "key"}[encoding]
		if want == "" {
			want = "clé€"
		}
		if err != nil {
			t.Errorf("%s: %v", encoding, err)
		} else if u, err := url.Parse(c.Spec); err != nil || u.User.String() != url.UserPassword("", want).String() {
			t.Errorf("%s: it is read as %s, %v; want the key %s", encoding, c.Spec, err, want)
		}
	}
}

// TestWebConfigNamesFold has names of connection strings, providers and settings found as
// .NET finds them, whatever their case.
func TestWebConfigNamesFold(t *testing.T) {
	for text, want := range map[string]string{
		`<configuration><connectionStrings><add name="STATE" connectionString="server=db;uid=u;pwd=p"/></connectionStrings>
			<system.web>` + sessionState(`mode="SQLServer" sqlConnectionString="State"`) + `</system.web></configuration>`: "sqlserver://u:p@db?aspstate=1&database=ASPState",
		`<configuration><appSettings><add key="CacheHost" value="cache"/></appSettings><system.web>` +
			sessionState(`mode="Custom" customProvider="r"`, `<providers><add name="X"/><remove name="x"/><add name="R" type="Microsoft.Web.Redis.RedisSessionStateProvider" host="cachehost"/></providers>`) +
			`</system.web></configuration>`: "rediss://cache:6380/0",
	} {
		if c, err := ParseWebConfig([]byte(text), ""); err != nil || c.Spec != want {
			t.Errorf("%s\nis %+v, %v; want %s", text, c, err, want)
		}
	}
}

// TestWebConfigLocation: what stands in a <location> stands over what is outside.
func TestWebConfigLocation(t *testing.T) {
	text := []byte(`<configuration>
		<location path="." inheritInChildApplications="false"><system.web>` + sessionState(`cookieName="outer"`) + `</system.web></location>
		<location path="shop"><system.web>` + sessionState(`mode="Off"`) + `</system.web></location>
		<system.web>` + sessionState(`mode="InProc" timeout="7"`) + `</system.web>
	</configuration>`)
	for location, want := range map[string]string{"": "InProc 7m0s outer", "shop": "Off 7m0s ASP.NET_SessionId", "/Shop/": "Off 7m0s ASP.NET_SessionId"} {
		c, err := ParseWebConfig(text, location)
		if err != nil {
			t.Errorf("%q: %v", location, err)
		} else if got := fmt.Sprint(c.Mode, " ", c.Timeout, " ", c.CookieName); got != want {
			t.Errorf("%q: %s, want %s", location, got, want)
		}
	}
	if _, err := ParseWebConfig(text, "bank"); err == nil || !strings.Contains(err.Error(), `there is no <location path="bank">; there is one for the location shop`) {
		t.Errorf("bank: %v", err)
	}
}

// FuzzParseWebConfig has every text either refused, or understood as something that Open
// takes, and never lets a password out.
func FuzzParseWebConfig(f *testing.F) {
	const secret = "s3cret"
	for _, text := range []string{
		"", "<sessionState/>", sessionState(`mode="StateServer" stateConnectionString="tcpip=h:1" timeout="9"`),
		sessionState(`mode="SQLServer" sqlConnectionString="data source=.\x,1;user id='a''b';password=&quot;c&quot;;encrypt=true"`),
		sessionState(`mode="SQLServer" allowCustomSqlDatabase="true" sqlConnectionString="server=tcp:h;uid=u;database=d" partitionResolverType=""`),
		redisProvider(`host="[::1]" accessKey="k"`), sessionState(`cookieless="AutoDetect" cookieName="x" compressionEnabled="true"`),
		`<configuration><connectionStrings><add name="a" connectionString="b=c"/></connectionStrings><location path="x"><system.web><sessionState/></system.web></location></configuration>`,
		"<a><b></a>", "<!DOCTYPE x [<!ENTITY a 'b'>]><sessionState mode='&a;'/>",
	} {
		f.Add(text, "", ";password=")
		f.Add(text, "x", "'")
	}
	f.Fuzz(func(t *testing.T, text, location, around string) {
		text = strings.ReplaceAll(text, secret, "")
		if c, err := ParseWebConfig([]byte(text), strings.ReplaceAll(location, secret, "")); err == nil && c.Spec != "" {
			if _, err := parse(c.Spec); err != nil {
				t.Errorf("%q is read as %q, which is no mode: %v", text, c.Spec, err)
			}
		}
		var value strings.Builder
		for _, r := range strings.ReplaceAll(around, secret, "") + secret {
			fmt.Fprintf(&value, "&#%d;", r)
		}
		for _, name := range []string{"stateConnectionString", "sqlConnectionString"} {
			for _, mode := range []string{"StateServer", "SQLServer"} {
				c, err := ParseWebConfig([]byte(`<sessionState mode="`+mode+`" `+name+`="`+value.String()+`"/>`), "")
				if err != nil && strings.Contains(err.Error(), secret) || err == nil && strings.Contains(fmt.Sprint(c.Notes), secret) {
					t.Errorf("%s: %v, %+v", name, err, c)
				}
			}
		}
	})
}
