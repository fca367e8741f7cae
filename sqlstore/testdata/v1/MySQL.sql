CREATE TABLE IF NOT EXISTS `holdfast_sessions_meta` (
	kind BIGINT NOT NULL,
	meta_id BIGINT NOT NULL,
	value BIGINT NOT NULL,
	PRIMARY KEY (kind, meta_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;

INSERT INTO `holdfast_sessions_meta` (kind, meta_id, value) VALUES (0, 7525352680829580148, 0);

CREATE TABLE IF NOT EXISTS `holdfast_sessions` (
	id BINARY(32) NOT NULL,
	app VARBINARY(1024),
	app_hash BIGINT NOT NULL,
	session_id VARBINARY(1024),
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
	subject VARBINARY(1024),
	subject_hash BIGINT,
	ended_at BIGINT NOT NULL,
	reason BIGINT NOT NULL,
	moved_to VARBINARY(1024),
	lease BIGINT,
	packing BIGINT NOT NULL,
	items LONGBLOB,
	PRIMARY KEY (id),
	INDEX `holdfast_sessions_due` (state, due),
	INDEX `holdfast_sessions_subject` (subject_hash, id),
	INDEX `holdfast_sessions_ends` (app_hash, lease)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;

INSERT INTO `holdfast_sessions_meta` (kind, meta_id, value) VALUES (1, 0, 0);

UPDATE `holdfast_sessions_meta` SET value = 1 WHERE kind = 0 AND meta_id = 7525352680829580148 AND value = 0;
