package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-session/holdfast/mode"
	"github.com/holdfast-session/holdfast/sqlstore"
)

// sqlFlags are those of all `holdfast sql` commands.
type sqlFlags struct {
	store    string
	table    string
	schema   string
	aspState bool
	timeout  time.Duration
	yes      bool
	json     bool
}

func sqlCommand() *cobra.Command {
	f := &sqlFlags{}
	cmd := &cobra.Command{
		Use:   "sql",
		Short: "Make, look at and remove the tables of sessions in a database",
		Long: `Sessions in a database (package sqlstore, mode SQLServer) have tables that are made
before: an application should have no right to make tables. The database is named by
--store or the variable ` + mode.StoreVar + `, as applications name it:

  postgres://user:password@host/database
  mysql://user:password@host/database
  sqlserver://user:password@host?database=name     with --aspstate, or &aspstate=1, ASP.NET's
  sqlite:/var/lib/app/sessions.db
  oracle://user:password@host:1521/service

with --table and --schema, or &table= and &schema=, for other names. Tables that
are not Holdfast's are never touched. Give the user of this command the right to make
tables; applications need SELECT, INSERT, UPDATE and DELETE on them.`,
	}
	cmd.PersistentFlags().StringVar(&f.store, "store", "", "the `database`, as above (default $"+mode.StoreVar+")")
	cmd.PersistentFlags().StringVar(&f.table, "table", "", "the `name` of the table (default holdfast_sessions)")
	cmd.PersistentFlags().StringVar(&f.schema, "schema", "", "the `schema` of the table (default where the connection is)")
	cmd.PersistentFlags().BoolVar(&f.aspState, "aspstate", false, "the tables and procedures of ASP.NET (ASPState), in SQL Server")
	cmd.PersistentFlags().DurationVar(&f.timeout, "timeout", 0, "how long it may take (default no limit)")
	return onlyCommands(cmd, f.installCommand(), f.exportCommand(), f.statusCommand(), f.sweepCommand(), f.removeCommand())
}

// with runs what a command does with the database.
func (f *sqlFlags) with(cmd *cobra.Command, do func(ctx context.Context, d *mode.Database) error) error {
	spec := f.store
	if spec == "" {
		spec = os.Getenv(mode.StoreVar)
	}
	if spec == "" {
		hint := ""
		if cmd.Name() == "export" {
			hint = ", or without a database --dialect postgresql, mysql, sqlite, sqlserver or oracle"
		}
		return errors.New("--store says which database; write --store postgres://user:password@host/database, or set " + mode.StoreVar + hint)
	}
	d, err := mode.OpenDatabase(spec)
	if err != nil {
		return err
	}
	defer d.DB.Close()
	file, isFile := placeOf(spec, "sqlite:")
	if _, err := os.Stat(file); isFile && cmd.Name() != "install" && cmd.Name() != "export" && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no file %s; holdfast sql install makes it", file) // SQLite would, with nothing in it
	}
	if f.aspState && d.Options.Dialect != sqlstore.SQLServer {
		return errors.New("--aspstate is for sqlserver:// only: ASP.NET has such tables nowhere else")
	}
	d.ASPState = d.ASPState || f.aspState
	d.Options.Table, d.Options.Schema = cmp.Or(f.table, d.Options.Table), cmp.Or(f.schema, d.Options.Schema)
	ctx := cmd.Context()
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.timeout)
		defer cancel()
	}
	err = do(ctx, d)
	if err != nil && isFile {
		err = fmt.Errorf("%s: %w", file, err) // SQLite's errors do not say which
	}
	return err
}

func (f *sqlFlags) installCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "install",
		Short: "Make the tables, or bring those of an older version up to date",
		Long: `It makes the tables where there are none. Tables of an older version are changed, and
keep their sessions; applications may go on meanwhile. What is right already stays as
it is, so that it can be run at every deployment.`,
		Example: `  holdfast sql install --store postgres://admin:secret@db/shop`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd, func(ctx context.Context, d *mode.Database) error {
				if d.ASPState {
					if err := sqlstore.InstallASPState(ctx, d.DB); err != nil {
						return err
					}
					return say(cmd, "the tables of ASP.NET (ASPState) are there")
				}
				if err := sqlstore.Install(ctx, d.DB, &d.Options); err != nil {
					return err
				}
				s, err := sqlstore.Status(ctx, d.DB, &d.Options)
				if err != nil {
					return err
				}
				return say(cmd, "the tables are there: %s, version %d of the schema, %s", s.Dialect, s.Version, count(int(s.Sessions)))
			})
		},
	}
}

func (f *sqlFlags) exportCommand() *cobra.Command {
	var o sqlstore.Options
	var dialect string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Print the statements that make the tables",
		Long: `It prints what install runs where there are no tables yet, for somebody else to look at
and run. No database is asked: with --dialect none has to be named.`,
		Example: `  holdfast sql export --dialect postgresql --table sessions > sessions.sql
  holdfast sql export --aspstate | sqlcmd -d ASPState`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.aspState {
				return exportASPState(cmd)
			}
			if dialect == "" {
				return f.with(cmd, func(_ context.Context, d *mode.Database) error {
					if d.ASPState {
						return exportASPState(cmd)
					}
					return export(cmd.OutOrStdout(), &d.Options)
				})
			}
			all := []sqlstore.Dialect{sqlstore.PostgreSQL, sqlstore.MySQL, sqlstore.SQLite, sqlstore.SQLServer, sqlstore.Oracle}
			for _, d := range all {
				if strings.EqualFold(dialect, string(d)) {
					o.Dialect, o.Table, o.Schema = d, f.table, f.schema
					return export(cmd.OutOrStdout(), &o)
				}
			}
			return fmt.Errorf("there is no dialect %q; possible are %v", dialect, all)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&dialect, "dialect", "", "the SQL of the statements, if no database is named: postgresql, mysql, sqlite, sqlserver or oracle")
	fs.StringVar(&o.ItemsType, "items-type", "", "the SQL `type` of the column with the content, with --dialect")
	return cmd
}

func exportASPState(cmd *cobra.Command) error {
	_, err := io.WriteString(cmd.OutOrStdout(), sqlstore.ASPStateScript())
	return err
}

func export(w io.Writer, o *sqlstore.Options) error {
	script, err := sqlstore.Script(o)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, script)
	return err
}

func (f *sqlFlags) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what there is in the tables",
		Long: `It says which version the tables are of and how many sessions there are, how large they
are, how many have expired and wait to be swept, and how old the oldest lock is. It
reads the whole table. Exit status: 0, or 1 if the tables are missing or of another
version than this program's.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd, func(ctx context.Context, d *mode.Database) error {
				install := "holdfast sql install"
				look := func() (*sqlstore.TableStatus, error) { return sqlstore.Status(ctx, d.DB, &d.Options) }
				if d.ASPState {
					install += " --aspstate"
					look = func() (*sqlstore.TableStatus, error) { return sqlstore.StatusASPState(ctx, d.DB) }
				}
				s, err := look()
				if err != nil {
					return err
				}
				if err := printStatus(cmd.OutOrStdout(), s, d.ASPState, f.json); err != nil {
					return err
				}
				switch {
				case s.Version == 0:
					return fmt.Errorf("there are no tables; %s makes them", install)
				case s.Version < s.Current:
					return fmt.Errorf("the tables are of version %d, this program wants %d; holdfast sql install brings them up to date", s.Version, s.Current)
				case s.Version > s.Current:
					return fmt.Errorf("the tables are of version %d, this program knows %d at most; use a newer holdfast", s.Version, s.Current)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&f.json, "json", false, "print it as JSON")
	return cmd
}

func printStatus(w io.Writer, s *sqlstore.TableStatus, aspState, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(map[string]any{
			"dialect": s.Dialect, "version": s.Version, "current": s.Current, "sessions": s.Sessions, "bytes": s.Bytes,
			"expired": s.Expired, "locked": s.Locked, "oldest_lock_seconds": s.OldestLock.Seconds(), "ended": s.Ended, "pending_ends": s.PendingEnds,
		})
	}
	oldest := "none"
	if s.Locked > 0 {
		oldest = s.OldestLock.Round(time.Millisecond).String()
	}
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	lines := []struct {
		name  string
		value any
	}{
		{"dialect", s.Dialect},
		{"schema version", fmt.Sprintf("%d of %d", s.Version, s.Current)},
		{"sessions", s.Sessions},
		{"bytes of content", s.Bytes},
		{"expired, not swept yet", s.Expired},
		{"locked", s.Locked},
		{"oldest lock", oldest},
		{"ended, remembered", s.Ended},
		{"ends to deliver", s.PendingEnds},
	}
	if aspState { // which remembers no ends
		lines = lines[:len(lines)-2]
	}
	for _, line := range lines {
		fmt.Fprintf(t, "%s\t%v\n", line.name, line.value)
	}
	t.Flush()
	_, err := b.WriteTo(w)
	return err
}

func (f *sqlFlags) sweepCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "sweep",
		Short: "End the sessions that have expired, now",
		Long: `Applications sweep by themselves, one process at a time. This is for a database that
no application uses at the moment. It goes by a hundred rows at a time.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd, func(ctx context.Context, d *mode.Database) error {
				if d.ASPState {
					s, err := sqlstore.NewASPState(d.DB, nil)
					if err != nil {
						return err
					}
					n, err := s.Sweep(ctx)
					if err != nil {
						return fmt.Errorf("%s removed, then: %w", count(int(n)), err)
					}
					return say(cmd, "%s removed that had expired", count(int(n)))
				}
				done, err := sqlstore.Sweep(ctx, d.DB, &d.Options)
				if err != nil {
					return fmt.Errorf("%s ended, then: %w", count(int(done.Ended)), err)
				}
				return say(cmd, "%s ended that had expired; %d of those that ended long ago forgotten", count(int(done.Ended)), done.Forgotten)
			})
		},
	}
}

func (f *sqlFlags) removeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove",
		Short: "Remove the tables, with all sessions",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd, func(ctx context.Context, d *mode.Database) error {
				remove := func() error { return sqlstore.Remove(ctx, d.DB, &d.Options) }
				question := "ASP.NET's tables, procedures and all sessions in them are removed."
				if d.ASPState {
					remove = func() error { return sqlstore.RemoveASPState(ctx, d.DB) }
				} else {
					s, err := sqlstore.Status(ctx, d.DB, &d.Options)
					if err != nil {
						return err
					}
					if s.Version == 0 { // or what was left when they were being removed
						if err := remove(); err != nil {
							return err
						}
						return say(cmd, "there are no tables")
					}
					question = fmt.Sprintf("The tables and %s in them are removed.", count(int(s.Sessions)))
				}
				if !f.yes {
					if err := confirm(cmd.InOrStdin(), cmd.ErrOrStderr(), question); err != nil {
						return err
					}
				}
				if err := remove(); err != nil {
					return err
				}
				return say(cmd, "the tables are removed")
			})
		},
	}
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	return cmd
}

// say prints a line of the result.
func say(cmd *cobra.Command, format string, a ...any) error {
	_, err := fmt.Fprintf(cmd.OutOrStdout(), format+"\n", a...)
	return err
}
