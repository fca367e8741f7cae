// Package migrate moves sessions from one store to another while applications go on
// using them: to another mode, to a new machine, or over a list of state servers
// that grows.
//
//	old, _ := stateserver.Dial("old:42424", nil)
//	new, _ := stateserver.Dial("new:42424", nil)
//	sessions := holdfast.New(migrate.New(old, new, nil), nil)
//
// It is rolled out in two phases. First every process gets a store of [New] in the
// phase [Prepare]: it knows both places, begins new sessions in the old one, and
// uses whatever another process has moved. When no process is left that knows the
// old place alone, they are changed to the phase [Move], one after the other: new
// sessions begin in the new place, and one that is still in the old place moves when
// it is locked. [All] moves those that nobody locks. When it has found nothing for as
// long as the longest request takes, the old place can be switched off and the
// wrapper taken out. [Verify] counts what is where before that.
//
// # The way back
//
// Until the old place is switched off, all of it can be undone. In the phase Prepare
// new sessions begin in the old place again, and those that have moved are used where
// they are. To empty the new place, a store of New with the two exchanged is rolled out
// in the same two phases, from Prepare on. Before that nothing may be on its way any
// more, because the exchanged store would take a copy for the session: [Finish] finishes
// what movers have left that died.
//
// # How one session moves
//
// Whoever moves a session makes these calls, each of which is atomic:
//
//  1. Lock it in the old place, and read it there: version v, after h1, h2, h3.
//  2. Create a reservation in the new place: no content, version h2. Look whether it is
//     that.
//  3. Lock again in the old place, as the same owner: the session is still there,
//     and the same.
//  4. Save the content over the reservation, as version h1. This is the copy.
//  5. Remove the session in the old place, by the lock of step 3, as moved.
//  6. Save in the new place, as version v, without the flag Moving.
//
// Reservation and copy have the flag [store.Moving]; only a reservation is
// uninitialized. While they have it, their versions do not tell their contents: a session
// that comes back was in the new place before, as h1 and h2, and processes may still have
// near what it was then. Stores look past that, as store.Moving says. (Versions of their
// own would not do: a Save puts the version before it into the history, and of the four
// that a session is known by none can be spared.) After step 6 the new place has the session with the version and the
// history that it had, so that a caller who repeats a Save is recognised. (Where the
// history is shorter than that, versions made from v stand in for what is missing.
// This package hides them.)
//
// # Where a session is
//
// At any moment, one rule says where the live session is, and all calls go there:
//
//   - In the new place, if it is there without Moving, or as a copy of which the old
//     place has no original any more.
//   - Else in the old place, if it is there.
//
// A session goes from the old place to the new at step 5, at one moment. What follows
// is why nothing is lost at that moment or brought back later, whoever stops or is
// delayed between two steps.
//
// No update is lost. Step 5 names the lock of step 3, so it fails if anybody had the
// lock since, and nobody else can save under it. Should the lock have been broken or
// dropped, whoever saves next makes a newer version in the old place, step 5 fails,
// and the next mover finds that the copy is of another version and makes a new one. A
// Save in the old place after step 5 is refused as any Save of an absent session is;
// it is then made in the new place, where the version decides.
//
// No end is undone. What could bring a session back is a copy that is written after
// its end. Step 4 is a Save, which never inserts: it needs the reservation of step 2,
// which was made before step 3 saw the session alive. Whoever reports a session as
// absent, or ends it, first asks or removes it in the old place and then takes away
// what is in the new one: a reservation that is made earlier is taken away with it,
// and one that is made later belongs to a mover whose step 3 then finds nothing. So no
// tombstone is needed to tell a copy that lives from one that must not. Where the old
// place has one that says abandoned, regenerated, expired, evicted or damaged, a copy
// is taken away as well: that is a session that ended by itself between steps 4 and 5
// of a mover that died.
//
// A mover that comes late cannot do harm either: its reservation is refused or serves
// nobody, its step 4 and step 6 name versions that are gone, and its step 5 names a
// lock that is gone.
//
// Nothing is used half. A reservation or a copy whose original is there is never
// read or written; whoever finds the original gone finishes step 6, or takes the
// reservation away, before anything else.
//
// # Locks
//
// A session moves only when it is locked, which changes what a lock changes anyhow:
// its cookie, and the version at the last lock. Who waits for the lock in the old
// place while the session moves is told there that it is gone, and waits in the new
// place for what is left of its time. The mover keeps its lock throughout, in the new
// place from step 4 on.
//
// # What is not found
//
// What the new place remembers as abandoned or regenerated is not looked for in the
// old place. Otherwise a session is not found only if both places say so; if either
// cannot be reached, that is [store.ErrUnavailable].
//
// # Limits
//
// Both stores must keep versions, history and metadata. A session with the zero
// version, which is from a store without versions, is refused.
//
// The stores must not be one place under two names, where moving a session would end
// it. That is noticed at the first session ([ErrSamePlace]), before anything is removed,
// where both draw lock cookies at random.
//
// Session IDs are random, so that no two processes begin sessions under the same ID
// at the same time. If they do, one in each phase, only one Create succeeds; but for a
// moment a reader may see the other's session. The same is true of a Create for the ID
// of a session that is being moved.
//
// Others may see a session as locked, for the moments of a move, by a call of Lock that
// then returns that the session is gone. Those who wait in the old place arrive in the
// new one all at once, in no certain order.
//
// A reservation is not told from another one of the same version. If a mover stands still
// between steps 3 and 4 until the old place has forgotten that the session ended meanwhile,
// and just then a second one, which has stood still since it locked that same session, is
// between steps 2 and 3, the copy of the first is taken for the session. Bound the time of
// calls (holdfast's StoreTimeout does) well below the timeout of sessions.
//
// Moving restarts a session's timeout, as every use of it does.
package migrate
