package holdfast

import (
	"net/http"
	"time"
)

// OWASP returns Options that follow the OWASP Session Management Cheat Sheet: a
// generic cookie name with the __Host- prefix, Secure, HttpOnly and SameSite=Strict,
// not kept by the browser; an idle timeout of 15 minutes, an absolute one of 8 hours,
// and a new ID every hour. What the sheet asks for besides holds with any Options: 120
// random bits, IDs that the store does not know are not adopted, IDs hashed in the
// store and in logs, timeouts enforced by the server, no-store with a cookie.
//
// The application calls [Session.RegenerateID] when the visitor signs in and
// [Session.Abandon] when he signs out, and changes of the Options are its own choice.
func OWASP() *Options {
	return &Options{
		Timeout:  15 * time.Minute,
		Lifetime: 8 * time.Hour,
		Renewal:  time.Hour,
		Cookie:   Cookie{Name: "id", Secure: Always, SameSite: http.SameSiteStrictMode},
	}
}

// AAL2 returns Options for the sessions of NIST SP 800-63B at Authenticator Assurance
// Level 2: reauthentication after 30 minutes without a request and after 12 hours in
// any case, an opaque cookie that goes only to this host, only over TLS, and ends with
// the browser.
//
// At each authentication the application begins a new session: it calls
// [Session.Abandon] and puts in what the new one holds (RegenerateID would carry the
// old one's age along). It checks where requests come from with
// http.CrossOriginProtection.
func AAL2() *Options {
	return &Options{
		Timeout:  30 * time.Minute,
		Lifetime: 12 * time.Hour,
		Cookie:   Cookie{Name: "id", Secure: Always},
	}
}
