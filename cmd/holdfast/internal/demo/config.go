package demo

import (
	"fmt"
	"os"
	"strings"
)

// configName is the name of the file that the host watches.
const configName = "config.yaml"

// mottos are what the file says, one after another.
var mottos = []string{
	"Ropes, lamps and ground tackle",
	"Open until the tide turns",
	"Everything but the ship",
}

const mottoKey = "motto: "

// writeConfig writes the shop's configuration.
func writeConfig(file, motto string) error {
	return os.WriteFile(file, []byte("# A worker reads this when it starts. The host watches it.\n"+mottoKey+motto+"\n"), 0o600)
}

// readConfig returns the motto in the shop's configuration.
func readConfig(file string) (motto string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if motto, ok := strings.CutPrefix(line, mottoKey); ok {
			return strings.TrimSpace(motto), nil
		}
	}
	return "", fmt.Errorf("%s: no line begins with %q", file, mottoKey)
}
