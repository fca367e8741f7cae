CREATE TABLE IF NOT EXISTS "holdfast_sessions_meta" (
	kind INTEGER NOT NULL,
	meta_id INTEGER NOT NULL,
	value INTEGER NOT NULL,
	PRIMARY KEY (kind, meta_id)
);

INSERT INTO "holdfast_sessions_meta" (kind, meta_id, value) VALUES (0, 7525352680829580148, 0) ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS "holdfast_sessions" (
	id BLOB NOT NULL,
	app BLOB,
	app_hash INTEGER NOT NULL,
	session_id BLOB,
	state INTEGER NOT NULL,
	due INTEGER NOT NULL,
	created INTEGER NOT NULL,
	expires INTEGER NOT NULL,
	timeout INTEGER NOT NULL,
	slide INTEGER NOT NULL,
	version INTEGER NOT NULL,
	version1 INTEGER NOT NULL,
	version2 INTEGER NOT NULL,
	version3 INTEGER NOT NULL,
	acquired INTEGER NOT NULL,
	lock_cookie INTEGER NOT NULL,
	lock_owner INTEGER NOT NULL,
	lock_date INTEGER NOT NULL,
	lock_timeout INTEGER NOT NULL,
	flags INTEGER NOT NULL,
	subject BLOB,
	subject_hash INTEGER,
	ended_at INTEGER NOT NULL,
	reason INTEGER NOT NULL,
	moved_to BLOB,
	lease INTEGER,
	packing INTEGER NOT NULL,
	items BLOB,
	PRIMARY KEY (id)
);

CREATE INDEX IF NOT EXISTS "holdfast_sessions_due" ON "holdfast_sessions" (state, due);

CREATE INDEX IF NOT EXISTS "holdfast_sessions_subject" ON "holdfast_sessions" (subject_hash, id) WHERE subject_hash IS NOT NULL;

CREATE INDEX IF NOT EXISTS "holdfast_sessions_ends" ON "holdfast_sessions" (app_hash, lease) WHERE lease IS NOT NULL;

INSERT INTO "holdfast_sessions_meta" (kind, meta_id, value) VALUES (1, 0, 0) ON CONFLICT DO NOTHING;

UPDATE "holdfast_sessions_meta" SET value = 1 WHERE kind = 0 AND meta_id = 7525352680829580148 AND value = 0;
