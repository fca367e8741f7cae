package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-session/holdfast/cmd/holdfast/internal/serve"
	"github.com/holdfast-session/holdfast/host"
)

func hostStatusCommand() *cobra.Command {
	var (
		place hostPlace
		lines int
		asked bool
	)
	cmd := &cobra.Command{
		Use:   "status [app]",
		Short: "Say how the workers of a host are, and what happened to them",
		Long: `It asks the host of the application, which it finds by the name of its program, or by
the same --name, --state or --admin as the host has. Without any of them it asks the only
host that there is. Of a host that does not run it shows the journal.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := place.find(args, cmd.ErrOrStderr()); err != nil {
				return err
			}
			status, err := place.status(cmd.Context())
			if err != nil {
				if place.state == "" {
					return err
				}
				var unread error
				if status.Journal, unread = host.ReadJournal(place.journal()); unread != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "holdfast: %v; this is its journal\n", err)
			}
			if status.Journal = status.Journal[max(0, len(status.Journal)-lines):]; asked {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(status)
			}
			return status.print(cmd.OutOrStdout(), time.Now())
		},
	}
	place.addFlags(cmd.Flags())
	cmd.Flags().IntVarP(&lines, "lines", "n", 20, "`number` of lines of the journal")
	cmd.Flags().BoolVar(&asked, "json", false, "print JSON")
	return cmd
}

func hostRecycleCommand() *cobra.Command {
	var (
		place  hostPlace
		worker int
		why    string
	)
	cmd := &cobra.Command{
		Use:   "recycle [app]",
		Short: "Recycle the workers of a host, and wait for that",
		Long: `It finds the host as holdfast host status does. A worker that was given up, because it
failed too often, is started again.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := place.find(args, cmd.ErrOrStderr()); err != nil {
				return err
			}
			form := url.Values{"why": {why}}
			if worker > 0 {
				form.Set("worker", strconv.Itoa(worker))
			}
			said, err := place.call(cmd.Context(), http.MethodPost, "/recycle?"+form.Encode())
			if err == nil {
				_, err = cmd.OutOrStdout().Write(said)
			}
			return err
		},
	}
	place.addFlags(cmd.Flags())
	cmd.Flags().IntVar(&worker, "worker", 0, "`number` of the worker (default all of them)")
	cmd.Flags().StringVar(&why, "why", "", "what the journal is to say")
	return cmd
}

// find completes p for a command that asks a host: the one of args or of the flags or,
// if they name none, the only one that there is. It tells w which that is.
func (p *hostPlace) find(args []string, w io.Writer) error {
	app := strings.Join(args, "")
	if app == "" && p.name == "" && p.state == "" && p.admin == "" {
		data, err := serve.DefaultData(os.Getenv)
		if err != nil {
			return errors.New("which host? Name its application, or its --name, --state or --admin")
		}
		if p.name, err = onlyHost(data); err != nil {
			return err
		}
		fmt.Fprintf(w, "holdfast: the host of %s\n", p.name)
	}
	return p.complete(app)
}

// onlyHost is the name of the host whose folder is in data: of the only one that runs or,
// if none does, of the only one that did.
func onlyHost(data string) (string, error) {
	folders, err := filepath.Glob(filepath.Join(data, hostFolder+"*"))
	if err != nil {
		return "", err
	}
	var all, running []string
	for _, folder := range folders {
		name := strings.TrimPrefix(filepath.Base(folder), hostFolder)
		all = append(all, name)
		if c, err := net.Dial("unix", filepath.Join(folder, adminSocket)); err == nil {
			c.Close()
			running = append(running, name)
		}
	}
	if len(running) > 0 {
		all = running
	}
	switch len(all) {
	case 0:
		return "", fmt.Errorf("there is no host of this user (%s has none); name it by --state or --admin if it has such", data)
	case 1:
		return all[0], nil
	}
	return "", fmt.Errorf("which host? There is %s: name one, as in holdfast host status %s", strings.Join(all, ", "), all[0])
}

// status asks the host how it is.
func (p *hostPlace) status(ctx context.Context) (hostStatus, error) {
	var status hostStatus
	text, err := p.call(ctx, http.MethodGet, "/status")
	if err == nil {
		err = json.Unmarshal(text, &status)
	}
	return status, err
}

// call calls the host.
func (p *hostPlace) call(ctx context.Context, method, path string) ([]byte, error) {
	if p.admin == serve.AdminOff {
		return nil, errors.New("the host has no admin listener to ask; give it one with --admin")
	}
	client, err := adminClient(p.admin)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://host"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("the host on %s cannot be asked: permission denied; ask as the user that it runs as", p.admin)
	}
	if err != nil {
		return nil, fmt.Errorf("no host answers on %s: %w", p.admin, withoutAddress(err))
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(text)))
	}
	return text, err
}

// print writes the status for people.
func (s hostStatus) print(w io.Writer, now time.Time) error {
	if len(s.Workers) > 0 {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "WORKER\tPID\tSTATE\tUP\tREQUESTS\tIN FLIGHT\tMEMORY\tSESSIONS")
		for _, p := range s.Workers {
			if p.PID == 0 {
				fmt.Fprintf(t, "%d\t\t%s\n", p.Worker, p.State)
				continue
			}
			memory, sessions := "?", "?"
			if p.Memory > 0 {
				memory = fmt.Sprintf("%.1f MiB", float64(p.Memory)/(1<<20))
			}
			if p.Sessions != nil {
				sessions = strconv.Itoa(*p.Sessions)
			}
			fmt.Fprintf(t, "%d\t%d\t%s\t%s\t%d\t%d\t%s\t%s\n",
				p.Worker, p.PID, p.State, now.Sub(p.Began).Round(time.Second), p.Requests, p.InFlight, memory, sessions)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	for _, e := range s.Journal {
		if _, err := fmt.Fprintln(w, e); err != nil {
			return err
		}
	}
	return nil
}
