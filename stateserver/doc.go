// Package stateserver is ASP.NET's mode StateServer: sessions in a process of
// their own, so that they outlive the web application and are shared by all of its
// workers. It has both ends of one protocol, as net/http has: a [Client], which is a
// [store.Store], and a [Server], which serves any store.Store.
//
//	s := &stateserver.Server{Store: inproc.New(nil)}
//	err := s.ListenAndServe("localhost:42424")
//
//	c, err := stateserver.Dial("localhost:42424", nil)
//	sessions := holdfast.New(c, nil)
//
// The protocol is Microsoft's [MS-ASP], so that ASP.NET applications can keep their
// sessions on a Holdfast server, and Go applications theirs on Microsoft's. It has
// neither encryption nor passwords of its own: serve it on localhost or a unix socket,
// over TLS (give [Server.Serve] a listener of package crypto/tls) to those who have a
// token or a certificate ([Access]), or behind a firewall that lets only the web
// servers in ([Server.AllowRemote]).
//
// # The protocol
//
// It looks like HTTP/1.1 and is not quite: targets are escaped as a whole and begin
// with %2f, some servers leave the protocol out of the status line, lengths on
// requests other than PUT mean nothing, and net/http refuses all that. Requests on a
// connection are answered in order, and more than one may be sent ahead, to a server
// whose first answer on the connection was marked.
//
//	request  = method SP target SP "HTTP/1." DIGIT CRLF *( name ":" value CRLF ) CRLF [ body ]
//	method   = "GET" / "PUT" / "DELETE" / "HEAD"
//	target   = escaped( [ "/" ] application "(" base64( sha256( application ) ) ")/" session )
//	answer   = [ "HTTP/1.1" SP ] status SP text CRLF *( name ":" value CRLF ) CRLF [ body ]
//
// Escaped is as .NET's UrlEncode does it, with "+" for a space and hexadecimal digits
// in lower case. The server takes the unescaped target for an opaque key, in which
// case counts. A session ID that has a slash or a percent sign is escaped on its own
// before. Names of fields are read in any case, "Lock-Cookie" as "LockCookie".
//
// A Holdfast client marks each request with "Holdfast: 1", a Holdfast server each
// answer to one. What the two say to each other has these forms:
//
//	version  = DQUOTE 1*16HEXDIG DQUOTE      a store.Version
//	owner    = 1*16HEXDIG                    of a store.Lock
//	cookie   = 1*DIGIT                       of a store.Lock
//	seconds  = 1*DIGIT [ "." 1*9DIGIT ]      a duration
//	kind     = "expired" / "abandoned" / …   a store.Kind
//	string   = escaped text
//
//	call     request                                      answers
//	Load     GET                                          200 record; 304 if If-None-Match: version
//	                                                      is the session's (never while it is moving);
//	                                                      404
//	Lock     GET, Exclusive: acquire, Lock-Token: owner   200 record; 304 as above, and locked;
//	         [Prefer: wait=seconds]                       404; 423 with LockCookie,
//	         [Holdfast-Stale: seconds]                    LockAge: seconds, Lock-Token
//	         [Holdfast-Hold: 1, to renew]
//	         [If-None-Match: version]
//	Create   PUT, If-None-Match: *,                       200 ETag: version [LockCookie]; 412 exists;
//	         Idempotency-Key: version, fields, body       413 too large; 507 full
//	         [Lock-Token: owner, to hold]
//	Save     PUT, If-Match: version,                      200 ETag: version; 404; 412 conflict; 413; 507;
//	         Idempotency-Key: next, fields, body          423 locked or, if a lock was named, lost
//	         [Lock-Token: owner] [LockCookie: cookie]
//	         [Holdfast-Hold: 1]
//	Unlock   GET, Exclusive: release,                     200; 404; 423
//	         Lock-Token or LockCookie
//	Remove   DELETE, Holdfast-Reason: kind,               200; 404; 423
//	         [Holdfast-To: string]
//	         Lock-Token or LockCookie, or If-Match: *
//	Touch    HEAD                                         200; 404
//
//	record   = ETag: version                              fields, and
//	           LockCookie: cookie                         of the lock, or of the last one
//	           [ Lock-Token: owner, LockAge: seconds ]    only if it is locked now
//	           [ Holdfast-Acquired: version ]
//	fields   = Holdfast-Timeout: seconds
//	           [ Holdfast-Flags: 1*DIGIT ]
//	           [ Holdfast-Subject: string ]
//	           [ Holdfast-Created: seconds ]              since 1970; not in Save
//	           [ Holdfast-History: version *2( "," version ) ]   newest first; not in Save
//
// A 404 says why, as far as is known, with Holdfast-Reason: kind, Holdfast-Age:
// seconds and Holdfast-To: string. Of a store that fails, 503 means that the call was
// certainly not applied, 504 and 500 that it perhaps was; they have a body that says
// what went wrong. 400 is a request that cannot be read, and the connection's end.
//
// A Lock that waits is withdrawn by closing the connection, at least its sending
// half. What was sent before that is still done, so that a client which sends the
// release along knows that it holds nothing afterwards. One that does not wait is
// withdrawn by a release sent behind it. One that renews is not given back where its
// answer cannot be delivered, as others are.
//
// # Lists and ends
//
// Requests about many sessions have targets that no client has for a session: those
// all have ")/" in them. To requests without the mark they are sessions like others.
//
//	List     GET /holdfast/sessions[?query]               200 JSON
//	         app, subject, after, limit
//	Ended    GET /holdfast/ends?query                     200 JSON
//	         app, limit, lease=seconds
//	Ack      DELETE /holdfast/ends?query                  200
//	         app, key, and more keys
//
// A query is escaped as a target is. In it an application is called as in a target,
// with its hash: "/shop(…)"; without one, List is of all. Of a limit past 1,000 the
// answer is that of 1,000; an answer to Ended may have fewer than there are, if they
// are large. The answer is 501 if the store cannot do it.
//
//	list     = { "sessions": [ session, … ], "next": string }     next, if there is more, is for after
//	ends     = { "ends": [ session and { "key": string, "reason": kind, "age": seconds, "to": string }, … ] }
//	session  = { "target": target, "version": hex, "history": [ hex, hex, hex ], "acquired": hex,
//	             "locked": bool, "lockAge": seconds, "lockCookie": number, "timeout": seconds,
//	             "created": seconds, "flags": number, "subject": string, "body": base64 }
//
// Strings are escaped there too, since they need not be UTF-8; seconds are numbers.
// What is zero may be left out. The body is that of an end; lists have none. Sessions
// whose target no client makes are left out.
//
// # Access
//
// Where the server asks for a token, each request has "Authorization: Bearer secret".
// A request that is refused is answered to a marked client with
//
//	401      without a token, or with one that the server does not know
//	403      if the token does not allow it, whether there is such an application or
//	         session or not; or if the client's address may not connect
//	429      if the client's address asks too often, or has too many connections or
//	         waiting requests; 503 if the server has no memory for one so large
//
// and to an old one with 400. It was certainly not applied. The body of a request that
// is refused for who sends it, or for want of memory, is not waited for: that answer
// then ends the connection. Requests that come too fast are first of all delayed, and
// refused once they have been read to their end; the connection goes on.
//
// # Old clients
//
// Requests without the mark are those of an ASP.NET application, and get Microsoft's
// answers, in Microsoft's order of fields, except where these would lose an update or
// bring an ended session back. [Server.Exact] gives them throughout. Otherwise:
//
//   - Lock cookies are random, so that none names the lock of another.
//   - A PUT with a lock cookie of 1 or more is refused with 404 where there is no
//     session, and with 423 where the lock is not the one of this cookie, or is gone
//     and anybody has saved since it was taken. A PUT with cookie 0 or none creates a
//     session, or overwrites one that is not locked.
//   - A store that fails is answered 400, the one status that ASP.NET takes for a
//     failure: with any other it would go on with an empty session, or drop a save
//     without a word.
//
// Timeouts travel in minutes there, rounded down; a session whose timeout is not whole
// minutes keeps it when an old client saves it.
//
// They cannot carry a token: where tokens are needed, [Access].Trusted lets them in.
//
// # Foreign servers
//
// A [Client] recognises a server that does not mark its answers and, unless
// [ClientOptions.Compat] is set, creates and saves nothing there.
//
// [MS-ASP]: https://learn.microsoft.com/openspecs/windows_protocols/ms-asp/
package stateserver
