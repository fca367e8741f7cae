package serve

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/spf13/pflag"

	"github.com/holdfast-session/holdfast/mode"
)

// reload reads the configuration again and applies what can be changed in a running
// server. A configuration with a mistake changes nothing.
func (s *Server) reload() {
	s.notify("RELOADING=1")
	if err := s.tryReload(); err != nil {
		s.Log.Error("reload: the settings from before stay in force", "err", err)
	}
	s.notify("READY=1")
}

func (s *Server) tryReload() error {
	next, err := s.Reload()
	if err != nil {
		return err
	}
	// Else it could be open to everybody from now on. What counts is what will be in
	// force, and but for the tokens that is what was: the rest takes a restart.
	inForce := *s.Config
	inForce.Tokens = next.Tokens
	for _, l := range s.listeners {
		if err := inForce.mayListen(l.role, l.Addr()); err != nil {
			return err
		}
	}
	access, err := next.access()
	if err != nil {
		return err
	}
	files := func(c *Config) [3]string { return [3]string{c.TLSCert, c.TLSKey, c.TLSClientCA} }
	// What has to be asked of a client is a matter of its connection's beginning, and
	// those that are open did without.
	sameTLS := (next.TLSCert == "") == (s.Config.TLSCert == "") && (next.TLSClientCA == "") == (s.Config.TLSClientCA == "")
	if s.certificates != nil && sameTLS {
		if err := s.certificates.Use(next.TLSCert, next.TLSKey, next.TLSClientCA); err != nil {
			return err
		}
		if files(next) == files(s.Config) {
			s.Log.Info("reload: the TLS files were read again", "expires", s.certificates.Expires())
		}
	}
	if err := s.state.SetAccess(*access); err != nil {
		return err
	}

	changed := 0
	s.Config.set.VisitAll(func(f *pflag.Flag) {
		to := next.set.Lookup(f.Name).Value
		if err != nil || f.Value.String() == to.String() {
			return
		}
		if s.Config.from[f.Name] == fromDefault && next.from[f.Name] == fromDefault {
			return // what systemd passed on in its place, or what goes with another setting
		}
		changed++
		before, after := f.Value.String(), to.String()
		if f.Name == "store" { // which may have a password
			before, after = redacted(before), redacted(after)
		}
		isFile := slices.Contains([]string{"tls-cert", "tls-key", "tls-client-ca"}, f.Name)
		if !slices.Contains(live, f.Name) && !(isFile && sameTLS) {
			s.Log.Warn("reload: this takes a restart", "setting", f.Name, "is", before, "will be", after)
			return
		}
		if err = take(f.Value, to); err != nil {
			err = fmt.Errorf("%s: %w", f.Name, err)
			return
		}
		s.Log.Info("reload: changed", "setting", f.Name, "from", before, "to", after)
	})
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(next.Tokens, s.Config.Tokens) {
		changed++
		s.Log.Info("reload: changed", "setting", tokensKey, "from", len(s.Config.Tokens), "to", len(next.Tokens))
		s.Config.Tokens = next.Tokens
	}
	if changed == 0 {
		s.Log.Info("reload: no setting has changed")
	}
	s.Level.Set(s.Config.LogLevel)
	return nil
}

// redacted is a store as the log may have it.
func redacted(spec string) string {
	if spec == "" {
		return ""
	}
	return mode.Redact(spec)
}
