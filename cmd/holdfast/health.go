package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-session/holdfast/cmd/holdfast/internal/serve"
	"github.com/holdfast-session/holdfast/stateserver"
)

func healthCommand() *cobra.Command {
	var (
		config string
		c      serve.Config
	)
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a state server on this machine whether it is ready",
		Long: `It asks the admin listener of holdfast serve, which it finds by the same flags,
variables and file as the server, and ends with status 0 if the server is ready to
serve, else with 1. Containers have it for their health check.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&config, "config", "", "`file` with the server's settings, in YAML")
	c.AddFlags(f)
	for _, name := range serve.SettingNames() {
		if name != "data" && name != "admin" && name != "memory" {
			f.Lookup(name).Hidden = true
		}
	}
	within := f.Duration("within", 5*time.Second, "how long it may take to answer")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if config == "" {
			config = serve.ConfigFile(os.Environ())
		}
		c, err := serve.Load(f, os.Environ(), config)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), *within)
		defer cancel()
		said, err := health(ctx, c.Admin)
		if err == nil {
			_, err = fmt.Fprintln(cmd.OutOrStdout(), said)
		}
		return err
	}
	return cmd
}

// health asks the admin listener at addr whether the server is ready. What it says
// otherwise is the error.
func health(ctx context.Context, addr string) (string, error) {
	if addr == serve.AdminOff {
		return "", fmt.Errorf("the server has no admin listener to ask; give it one with --admin")
	}
	client, err := adminClient(addr)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://holdfast/readyz", nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("nothing answers on %s: %w", addr, err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("not ready: %s", strings.TrimSpace(string(said)))
	}
	return strings.TrimSpace(string(said)), nil
}

// adminClient returns a client whose requests all go to the admin listener at addr.
func adminClient(addr string) (*http.Client, error) {
	network, address, err := stateserver.ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}, nil
}
