CREATE TABLE "holdfast_sessions_meta" (
	kind bigint NOT NULL,
	meta_id bigint NOT NULL,
	value bigint NOT NULL,
	PRIMARY KEY (kind, meta_id)
);

INSERT INTO "holdfast_sessions_meta" (kind, meta_id, value) VALUES (0, 7525352680829580148, 0);

CREATE TABLE "holdfast_sessions" (
	id binary(32) NOT NULL,
	app varbinary(1024),
	app_hash bigint NOT NULL,
	session_id varbinary(1024),
	state bigint NOT NULL,
	due bigint NOT NULL,
	created bigint NOT NULL,
	expires bigint NOT NULL,
	timeout bigint NOT NULL,
	slide bigint NOT NULL,
	version bigint NOT NULL,
	version1 bigint NOT NULL,
	version2 bigint NOT NULL,
	version3 bigint NOT NULL,
	acquired bigint NOT NULL,
	lock_cookie bigint NOT NULL,
	lock_owner bigint NOT NULL,
	lock_date bigint NOT NULL,
	lock_timeout bigint NOT NULL,
	flags bigint NOT NULL,
	subject varbinary(1024),
	subject_hash bigint,
	ended_at bigint NOT NULL,
	reason bigint NOT NULL,
	moved_to varbinary(1024),
	lease bigint,
	packing bigint NOT NULL,
	items varbinary(max),
	PRIMARY KEY (id)
);

CREATE INDEX "holdfast_sessions_due" ON "holdfast_sessions" (state, due);

CREATE INDEX "holdfast_sessions_subject" ON "holdfast_sessions" (subject_hash, id) WHERE subject_hash IS NOT NULL;

CREATE INDEX "holdfast_sessions_ends" ON "holdfast_sessions" (app_hash, lease) WHERE lease IS NOT NULL;

INSERT INTO "holdfast_sessions_meta" (kind, meta_id, value) VALUES (1, 0, 0);

UPDATE "holdfast_sessions_meta" SET value = 1 WHERE kind = 0 AND meta_id = 7525352680829580148 AND value = 0;
