CREATE TABLE IF NOT EXISTS "holdfast_sessions_meta" (
	kind BIGINT NOT NULL,
	meta_id BIGINT NOT NULL,
	value BIGINT NOT NULL,
	PRIMARY KEY (kind, meta_id)
) WITH (fillfactor = 80);

INSERT INTO "holdfast_sessions_meta" (kind, meta_id, value) VALUES (0, 7525352680829580148, 0) ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS "holdfast_sessions" (
	id BYTEA NOT NULL,
	app BYTEA,
	app_hash BIGINT NOT NULL,
	session_id BYTEA,
	state BIGINT NOT NULL,
	due BIGINT NOT NULL,
	created BIGINT NOT NULL,
	expires BIGINT NOT NULL,
	timeout BIGINT NOT NULL,
	slide BIGINT NOT NULL,
	version BIGINT NOT NULL,
	version1 BIGINT NOT NULL,
	version2 BIGINT NOT NULL,
	version3 BIGINT NOT NULL,
	acquired BIGINT NOT NULL,
	lock_cookie BIGINT NOT NULL,
	lock_owner BIGINT NOT NULL,
	lock_date BIGINT NOT NULL,
	lock_timeout BIGINT NOT NULL,
	flags BIGINT NOT NULL,
	subject BYTEA,
	subject_hash BIGINT,
	ended_at BIGINT NOT NULL,
	reason BIGINT NOT NULL,
	moved_to BYTEA,
	lease BIGINT,
	packing BIGINT NOT NULL,
	items BYTEA,
	PRIMARY KEY (id)
) WITH (fillfactor = 80);

CREATE INDEX IF NOT EXISTS "holdfast_sessions_due" ON "holdfast_sessions" (state, due);

CREATE INDEX IF NOT EXISTS "holdfast_sessions_subject" ON "holdfast_sessions" (subject_hash, id) WHERE subject_hash IS NOT NULL;

CREATE INDEX IF NOT EXISTS "holdfast_sessions_ends" ON "holdfast_sessions" (app_hash, lease) WHERE lease IS NOT NULL;

INSERT INTO "holdfast_sessions_meta" (kind, meta_id, value) VALUES (1, 0, 0) ON CONFLICT DO NOTHING;

UPDATE "holdfast_sessions_meta" SET value = 1 WHERE kind = 0 AND meta_id = 7525352680829580148 AND value = 0;
