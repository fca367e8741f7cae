package serve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/holdfast-session/holdfast/internal/edits"
	"github.com/holdfast-session/holdfast/stateserver"
)

const (
	envPrefix   = "HOLDFAST_SERVE_"
	fromDefault = "default"
)

// Load returns the configuration that flags, as parsed, environ (os.Environ's form)
// and the file of path give together: what is on the command line wins over the
// environment, that over the file, and that over the default. An empty path is no
// file. Every mistake is an error that says what is possible instead.
func Load(flags *pflag.FlagSet, environ []string, path string) (*Config, error) {
	c := &Config{from: make(map[string]string)}
	c.AddFlags(pflag.NewFlagSet("serve", pflag.ContinueOnError))
	env, err := c.environment(environ)
	if err != nil {
		return nil, err
	}
	file, err := c.readFile(path)
	if err != nil {
		return nil, err
	}
	var wrong []error
	c.set.VisitAll(func(f *pflag.Flag) {
		var err error
		node, inFile := file[f.Name]
		value, inEnv := env[f.Name]
		given := flags.Lookup(f.Name)
		switch {
		case given != nil && given.Changed:
			c.from[f.Name] = "--" + f.Name
			err = take(f.Value, given.Value)
		case inEnv:
			c.from[f.Name] = envName(f.Name)
			err = setAll(f.Value, strings.Split(value, ","), value)
		case inFile:
			c.from[f.Name] = fmt.Sprintf("%s:%d: %s", path, node.Line, f.Name)
			err = setNode(f.Value, node)
		default:
			c.from[f.Name] = fromDefault
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", c.from[f.Name], err))
		}
	})
	c.from[tokensKey] = fromDefault
	if node, ok := file[tokensKey]; ok {
		c.from[tokensKey] = fmt.Sprintf("%s:%d: %s", path, node.Line, tokensKey)
		if c.Tokens, err = readTokens(path, node); err != nil {
			wrong = append(wrong, err)
		}
	}
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	if err := c.complete(lookup(environ)); err != nil {
		return nil, err
	}
	return c, nil
}

// lookup is os.Getenv for an environment in os.Environ's form.
func lookup(environ []string) func(string) string {
	return func(name string) string {
		for _, kv := range slices.Backward(environ) {
			if v, ok := strings.CutPrefix(kv, name+"="); ok {
				return v
			}
		}
		return ""
	}
}

// ConfigFile returns the file that the environment names, if it names one.
func ConfigFile(environ []string) string { return lookup(environ)(envName("config")) }

// take gives to the value of from, another set's flag of the same name.
func take(to, from pflag.Value) error {
	if list, ok := from.(pflag.SliceValue); ok {
		return to.(pflag.SliceValue).Replace(list.GetSlice())
	}
	return to.Set(from.String())
}

// setAll sets a list to all and any other value to text.
func setAll(to pflag.Value, all []string, text string) error {
	if list, ok := to.(pflag.SliceValue); ok {
		return list.Replace(all)
	}
	err := to.Set(text)
	if to.Type() == "bool" && err != nil {
		return fmt.Errorf("%q is neither true nor false", text)
	}
	if err != nil && slices.Contains([]string{"int", "float64"}, to.Type()) {
		return fmt.Errorf("%q is no number", text)
	}
	return err
}

// setNode sets a flag from the file.
func setNode(to pflag.Value, node *yaml.Node) error {
	switch node.Kind {
	case yaml.ScalarNode:
		return setAll(to, []string{node.Value}, node.Value)
	case yaml.SequenceNode:
		if _, ok := to.(pflag.SliceValue); !ok {
			return errors.New("has one value, not a list")
		}
		var all []string
		for _, n := range node.Content {
			if n.Kind != yaml.ScalarNode {
				return errors.New("is a list of plain values")
			}
			all = append(all, n.Value)
		}
		return setAll(to, all, "")
	}
	return errors.New("is a plain value or a list of such")
}

func envName(name string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// kubernetes puts such variables into every container if there is a Service named
// holdfast-serve.
var kubernetes = regexp.MustCompile(`^HOLDFAST_SERVE_(SERVICE_(HOST|PORT.*)|PORT(_.*)?)$`)

// environment returns the settings in environ, by name.
func (c *Config) environment(environ []string) (map[string]string, error) {
	names := map[string]string{envName("config"): ""}
	c.set.VisitAll(func(f *pflag.Flag) { names[envName(f.Name)] = f.Name })
	settings := make(map[string]string)
	for _, kv := range environ {
		key, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(key, envPrefix) || kubernetes.MatchString(key) {
			continue
		}
		name, ok := names[key]
		if !ok {
			return nil, fmt.Errorf("the environment has %s, which is no setting%s", key, didYouMean(key, names))
		}
		settings[name] = value
	}
	return settings, nil
}

// readFile returns the settings of the file, by name.
func (c *Config) readFile(path string) (map[string]*yaml.Node, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the configuration cannot be read: %w", err)
	}
	var doc yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF): // it is empty, or all comment
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: there is more than one document in it", path)
	}
	names := map[string]string{tokensKey: tokensKey}
	c.set.VisitAll(func(f *pflag.Flag) { names[f.Name] = f.Name })
	return mapping(path, doc.Content[0], names)
}

// mapping returns what the names stand for in a mapping. A name that has no value is
// as if it were not there; one that is not among names is an error.
func mapping[V any](path string, node *yaml.Node, names map[string]V) (map[string]*yaml.Node, error) {
	if node.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: here belong lines of the form name: value; the names are %s", path, node.Line, list(names))
	}
	values := make(map[string]*yaml.Node)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if _, ok := names[key.Value]; !ok {
			return nil, fmt.Errorf("%s:%d: %s is no setting%s", path, key.Line, key.Value, didYouMean(key.Value, names))
		}
		if before, ok := values[key.Value]; ok {
			return nil, fmt.Errorf("%s:%d: %s is there twice, first in line %d", path, key.Line, key.Value, before.Line)
		}
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if value.Tag != "!!null" {
			values[key.Value] = value
		}
	}
	return values, nil
}

// readTokens reads the list of tokens.
func readTokens(path string, node *yaml.Node) ([]stateserver.Token, error) {
	if node.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("%s:%d: %s is a list; make an entry with `holdfast token NAME`", path, node.Line, tokensKey)
	}
	var all []stateserver.Token
	seen := make(map[string]bool)
	for _, n := range node.Content {
		var t stateserver.Token
		var right string
		fields := map[string]any{"name": &t.Name, "hash": &t.Hash, "apps": &t.Apps, "right": &right}
		values, err := mapping(path, n, fields)
		if err != nil {
			return nil, err
		}
		for name, value := range values {
			if err := value.Decode(fields[name]); err != nil {
				return nil, fmt.Errorf("%s:%d: %s of a token: %w", path, value.Line, name, err)
			}
		}
		switch {
		case t.Name == "" || t.Hash == "":
			return nil, fmt.Errorf("%s:%d: a token has a name, and the hash that `holdfast token` prints", path, n.Line)
		case right == "":
			return nil, fmt.Errorf("%s:%d: token %s has no right; write read, write or admin", path, n.Line, t.Name)
		case seen[t.Name]:
			return nil, fmt.Errorf("%s:%d: there are two tokens of the name %s; the log could not tell them apart", path, n.Line, t.Name)
		}
		seen[t.Name] = true
		if t.Right, err = stateserver.ParseRight(right); err != nil {
			return nil, fmt.Errorf("%s:%d: token %s: %w", path, n.Line, t.Name, err)
		}
		all = append(all, t)
	}
	return all, nil
}

// list names the keys of names in order.
func list[V any](names map[string]V) string {
	var all []string
	for name := range names {
		all = append(all, name)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// didYouMean names the one of names that is nearest to name, if one is near, or else
// all of them.
func didYouMean[V any](name string, names map[string]V) string {
	best, nearest := 3, "" // two letters wrong, at most
	for other := range names {
		if d := edits.Distance(strings.ToLower(name), strings.ToLower(other)); d < best || d == best && other < nearest {
			best, nearest = d, other
		}
	}
	if nearest != "" {
		return "; is it " + nearest + "?"
	}
	return "; there is " + list(names)
}

// WriteTo writes the configuration as a file of it would be, each setting with where
// it is from. Hashes of tokens, and what could be secret of a store, are left out.
func (c *Config) WriteTo(w io.Writer) (int64, error) {
	root := &yaml.Node{Kind: yaml.MappingNode}
	add := func(name string, value *yaml.Node) {
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: name, HeadComment: "from " + strings.TrimSuffix(c.from[name], ": "+name)}
		if c.from[name] == fromDefault {
			key.HeadComment = ""
		}
		root.Content = append(root.Content, key, value)
	}
	c.set.SortFlags = false // as they were added: what belongs together
	c.set.VisitAll(func(f *pflag.Flag) {
		value := &yaml.Node{Kind: yaml.ScalarNode, Value: f.Value.String()}
		if f.Name == "store" {
			value.Value = redacted(value.Value)
		}
		if all, ok := f.Value.(pflag.SliceValue); ok {
			value = &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
			for _, s := range all.GetSlice() {
				value.Content = append(value.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: s})
			}
		}
		add(f.Name, value)
	})
	tokens := &yaml.Node{Kind: yaml.SequenceNode}
	for _, t := range c.Tokens {
		entry := &yaml.Node{Kind: yaml.MappingNode}
		scalar := func(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: s} }
		flow := func(all []string) *yaml.Node {
			n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
			for _, s := range all {
				n.Content = append(n.Content, scalar(s))
			}
			return n
		}
		entry.Content = append(entry.Content, scalar("name"), scalar(t.Name), scalar("apps"), flow(t.Apps), scalar("right"), scalar(t.Right.String()))
		tokens.Content = append(tokens.Content, entry)
	}
	if len(tokens.Content) > 0 {
		add(tokensKey, tokens)
	}
	text, err := yaml.Marshal(root)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(text)
	return int64(n), err
}
