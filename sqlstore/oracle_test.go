package sqlstore

import (
	"database/sql"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "github.com/sijms/go-ora/v2"
)

var update = flag.Bool("update", false, "write the files of rendered statements anew")

// all returns the statements with their names.
func (s *statements) all() (names []string, all map[string]*statement) {
	all = make(map[string]*statement)
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		name, f := v.Type().Field(i).Name, v.Field(i)
		if f.Kind() != reflect.Slice {
			names = append(names, name)
			all[name] = (*statement)(f.UnsafePointer())
			continue
		}
		for j := range f.Len() { // for 2 sessions, for 4 and so on
			each := fmt.Sprint(name, 2<<j)
			names = append(names, each)
			all[each] = (*statement)(f.Index(j).UnsafePointer())
		}
	}
	return names, all
}

// TestRendered compares what is said to Oracle with what was checked against Oracle's
// documents, for want of a server. What is said to the others, servers check.
func TestRendered(t *testing.T) {
	var b strings.Builder
	for _, name := range []Dialect{PostgreSQL, MySQL, SQLite, SQLServer, Oracle} {
		d, _ := dialectOf(name)
		o, err := (&Options{Dialect: name}).check()
		if err != nil {
			t.Fatal(err)
		}
		names := o.names(d)
		names.now = "NOW" // it is in most of them, several times
		list, all := newStatements(d, names).all()
		for _, statement := range list {
			checkParams(t, d, statement, all[statement])
			if name == Oracle {
				fmt.Fprintf(&b, "-- %s\n%s;\n\n", statement, all[statement].text)
			}
		}
	}
	fmt.Fprintf(&b, "-- NOW is %s\n\n-- The script of the installer\n", oracle{}.now())
	script, err := Script(&Options{Dialect: Oracle})
	if err != nil {
		t.Fatal(err)
	}
	b.WriteString(script)
	file := filepath.Join("testdata", "oracle.sql")
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("the statements are others than those in %s (go test -update writes it anew):\n%s", file, diff)
	}
}

// checkParams checks that a text has as many parameters as there are values for it.
func checkParams(t *testing.T, d dialect, name string, st *statement) {
	t.Helper()
	first := strings.TrimSuffix(d.param(1), "1")
	places := regexp.MustCompile(regexp.QuoteMeta(first)+`\d*`).FindAllString(st.text, -1)
	different := make(map[string]bool)
	for _, p := range places {
		different[p] = true
	}
	n := len(different)
	if d.param(1) == d.param(2) {
		n = len(places)
	}
	if n != len(st.order) {
		t.Errorf("%s has %d parameters; there are %d values", name, n, len(st.order))
	}
}

// TestContractOracle needs a server that cannot be installed here.
func TestContractOracle(t *testing.T) {
	dsn := os.Getenv("HOLDFAST_ORACLE_DSN")
	if dsn == "" {
		t.Skip("not run: HOLDFAST_ORACLE_DSN names no Oracle Database")
	}
	db, err := sql.Open("oracle", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, _ = db.Exec("DROP TABLE clock") // of a run that was ended
	d := openDatabase(t, Oracle, "oracle", dsn, nil)
	defer d.exec(t, "DROP TABLE clock")
	contract(t, d, Options{}, nil)
}
