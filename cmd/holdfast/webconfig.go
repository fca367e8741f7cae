package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/holdfast-session/holdfast/mode"
)

func webconfigCommand() *cobra.Command {
	var (
		location string
		secrets  bool
	)
	cmd := &cobra.Command{
		Use:   "webconfig FILE",
		Short: "Say what an ASP.NET application's <sessionState> is in Holdfast",
		Long: `It reads the web.config of an ASP.NET application and prints the string that names the
same place to Holdfast (mode.Open, and the variable ` + mode.StoreVar + `), the options of
holdfast.New that follow from the file, and a message for each setting that has no
counterpart or means something else. Programs have the same by mode.ParseWebConfig.

Exit status: 0 also where there are messages, 1 if the file cannot be read, as ASP.NET
could not read it either. (But it reads more encodings: save such a file as UTF-8.)`,
		Example: `  holdfast webconfig /srv/shop/web.config
  holdfast webconfig --location admin --secrets web.config`,
		Args: needs("FILE, the application's web.config,", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			c, err := mode.ParseWebConfig(text, location)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return printWebConfig(cmd.OutOrStdout(), c, secrets)
		},
	}
	cmd.Flags().StringVar(&location, "location", "", "the application whose <location `path`> is meant, instead of the one whose file it is")
	cmd.Flags().BoolVar(&secrets, "secrets", false, "print passwords, too")
	return cmd
}

func printWebConfig(w io.Writer, c *mode.WebConfig, secrets bool) error {
	spec := c.Spec
	switch {
	case spec == "":
		spec = "(the file does not say; see below)"
	case !secrets:
		spec = mode.Redact(spec)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "store\t%s\n", spec)
	fmt.Fprintf(t, "Options.Timeout\t%v\n", c.Timeout)
	if c.StoreTimeout > 0 {
		fmt.Fprintf(t, "Options.StoreTimeout\t%v\n", c.StoreTimeout)
	}
	if c.Cookieless {
		fmt.Fprintln(t, "Options.Identity\tholdfast.Cookieless()")
	} else {
		fmt.Fprintf(t, "Options.Cookie.Name\t%s\n", c.CookieName)
		if c.CookieDomain != "" {
			fmt.Fprintf(t, "Options.Cookie.Domain\t%s\n", c.CookieDomain)
		}
		if c.RequireSSL {
			fmt.Fprintln(t, "Options.Cookie.Secure\tholdfast.Always")
		}
		if c.SameSite != http.SameSiteLaxMode {
			fmt.Fprintf(t, "Options.Cookie.SameSite\t%s\n", sameSite[c.SameSite])
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range c.Notes {
		if _, err := fmt.Fprintf(w, "\n%s\n%s", n.Setting, wrap(n.Text, "  ")); err != nil {
			return err
		}
	}
	return nil
}

var sameSite = map[http.SameSite]string{
	http.SameSiteStrictMode:  "http.SameSiteStrictMode",
	http.SameSiteNoneMode:    "http.SameSiteNoneMode",
	http.SameSiteDefaultMode: "http.SameSiteDefaultMode",
}

// wrap breaks text into lines for a terminal, each of which begins with indent.
func wrap(text, indent string) string {
	const width = 80
	var b strings.Builder
	column := width
	for _, word := range strings.Fields(text) {
		if n := len([]rune(word)); column+1+n > width {
			if b.Len() > 0 {
				b.WriteByte('\n')
			}
			b.WriteString(indent)
			column = len(indent) + n
		} else {
			b.WriteByte(' ')
			column += 1 + n
		}
		b.WriteString(word)
	}
	b.WriteByte('\n')
	return b.String()
}
