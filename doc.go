// Package holdfast gives web applications session state that holds: through
// restarts, deploys, several processes, parallel requests, and a change of where
// the sessions are kept.
//
// # Use
//
// Declare the values once, wrap the handler once:
//
//	var hits = holdfast.NewKey[int]("hits")
//
//	func main() {
//		sessions := holdfast.New(inproc.New(nil), nil)
//		defer sessions.Close(context.Background())
//
//		mux := http.NewServeMux()
//		mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
//			s := holdfast.From(r)
//			hits.Update(s, func(n int) int { return n + 1 })
//			fmt.Fprintf(w, "%d visits\n", hits.Get(s))
//		})
//		log.Fatal(http.ListenAndServe(":8080", sessions.Handler(mux)))
//	}
//
// To keep the sessions elsewhere, pass New another store; nothing else changes.
//
// # When things happen
//
// The session is acquired at the first [From] ([Manager.Handler]) or before the
// handler runs ([Manager.With]). The response is held back in a small buffer until
// the session is saved, so that a failed save is an error page and never a page
// that lies. A handler that panics, or answers with a status of 500 or more, saves
// nothing. Nothing is stored, and no cookie sent, until something is put in.
//
// # Parallel requests of one session
//
// They take turns ([Exclusive], the default), or run side by side and are merged
// key by key ([Merge]), or only read ([ReadOnly]). No update is lost unseen.
package holdfast
