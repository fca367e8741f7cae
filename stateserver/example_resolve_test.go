package stateserver_test

import (
	"fmt"
	"strings"

	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// A partition resolver of one's own: sessions of the shops in Europe are on a server
// there. What it goes by must be the same in every process, and for the whole life of a
// session. (The session in an ID is a hash, unless Options.PlainIDs is set; then it can
// also go by something that Options.IDs puts into the ID.)
func ExamplePartitions() {
	var servers []*stateserver.Client
	for _, region := range []string{"america", "europe"} {
		c, err := stateserver.Dial("state."+region+".example:42424", &stateserver.ClientOptions{Name: region})
		if err != nil {
			fmt.Println(err)
			return
		}
		servers = append(servers, c)
	}
	sessions := stateserver.Partitioned(servers...) // for holdfast.New
	defer sessions.Close()
	regions := make(map[string]int)
	for i, c := range sessions.Servers() {
		regions[c.Name()] = i
	}
	sessions.Resolve = func(id store.ID) int {
		if strings.HasPrefix(id.App, "/eu/") {
			return regions["europe"]
		}
		return regions["america"]
	}
	for _, app := range []string{"/eu/shop", "/us/shop"} {
		c, err := sessions.Server(store.ID{App: app, Session: "lit3py55t21z5v55vlm25s55"})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(app, c.Name())
	}
	// Output:
	// /eu/shop europe
	// /us/shop america
}
