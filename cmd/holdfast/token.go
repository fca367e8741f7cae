package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/holdfast-session/holdfast/stateserver"
)

func tokenCommand() *cobra.Command {
	var (
		apps  []string
		right string
	)
	cmd := &cobra.Command{
		Use:   "token NAME",
		Short: "Make a token, by which a state server knows an application",
		Long: `It prints the token to standard output. The application gets it
(stateserver.ClientOptions.Token); nobody can find it out again. To standard error it
prints what the server gets: an entry for the list "tokens" in the file of
holdfast serve --config, which has no more than a hash of it. NAME is what the server's
log calls the application.

Then tell the server to read the file again, by SIGHUP.`,
		Args: needs("NAME, what the server's log calls the application,", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := stateserver.ParseRight(right)
			if err != nil {
				return fmt.Errorf("--right %s: there is read, write and admin", right)
			}
			if strings.TrimSpace(args[0]) == "" {
				return errors.New("the name is empty; the log would not say whose token it is")
			}
			secret := rand.Text()
			t := stateserver.Token{Name: args[0], Hash: stateserver.HashToken(secret), Apps: apps, Right: r}
			if err := new(stateserver.Server).SetAccess(stateserver.Access{Tokens: []stateserver.Token{t}}); err != nil {
				return err
			}
			entry, err := yaml.Marshal(map[string]any{"tokens": []any{struct {
				Name, Hash string
				Apps       []string `yaml:",flow,omitempty"`
				Right      string
			}{t.Name, t.Hash, apps, right}}})
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), secret); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "\n# For the file of holdfast serve --config. If it has tokens already, add the\n# entry below \"tokens:\" there, without that line:\n%s", entry)
			return err
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&apps, "app", nil, "`application` whose sessions it opens, as holdfast.Options.App has it; may be repeated (default all)")
	f.StringVar(&right, "right", "write", "what may be done with them: read, `write`, or admin (also lists the sessions of all applications)")
	return cmd
}
