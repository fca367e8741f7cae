-- load
SELECT state, reason, moved_to, ended_at, expires, timeout, version, version1, version2, version3, acquired, lock_cookie, lock_owner, lock_date, created, flags, subject, NOW, packing, items FROM "holdfast_sessions" WHERE id = :1;

-- peek
SELECT state, reason, moved_to, ended_at, expires, timeout, version, version1, version2, version3, acquired, lock_cookie, lock_owner, lock_date, created, flags, subject, NOW FROM "holdfast_sessions" WHERE id = :1;

-- lock
UPDATE "holdfast_sessions" SET lock_cookie = CASE WHEN lock_date <> 0 AND lock_owner = :1 THEN lock_cookie ELSE :2 END, acquired = version, waited = CASE WHEN lock_date <> 0 THEN waited ELSE 0 END, lock_timeout = :3, expires = GREATEST(expires, GREATEST(NOW + slide, NOW + :4)), lock_owner = :5, lock_date = NOW WHERE id = :6 AND state = 0 AND expires > NOW AND (lock_date = 0 OR lock_owner = :7 OR (lock_date <= NOW - :8 AND :9 > 0));

-- mark
UPDATE "holdfast_sessions" SET waited = 1 WHERE id = :1 AND state = 0 AND expires > NOW AND lock_date <> 0 AND lock_owner <> :2;

-- touch
UPDATE "holdfast_sessions" SET expires = GREATEST(NOW + slide, CASE WHEN lock_date <> 0 THEN lock_date + lock_timeout ELSE 0 END) WHERE id = :1 AND state = 0 AND expires > NOW;

-- create
INSERT INTO "holdfast_sessions" (id, app, app_hash, session_id, state, created, expires, due, timeout, slide, version, version1, version2, version3, acquired, lock_cookie, lock_owner, lock_date, lock_timeout, waited, flags, subject, subject_hash, reason, ended_at, packing, items) VALUES (:1, :2, :3, :4, 0, CASE WHEN :5 = 1 THEN :6 ELSE NOW * 1000 END, NOW + :7, NOW + :8, :9, :10, :11, :12, :13, :14, :15, :16, :17, CASE WHEN :18 = 1 THEN NOW ELSE 0 END, 0, 0, :19, :20, :21, 0, 0, :22, :23);

-- save
UPDATE "holdfast_sessions" SET version3 = version2, version2 = version1, version1 = version, version = :1, items = :2, packing = :3, timeout = :4, slide = :5, flags = :6, subject = :7, subject_hash = :8, due = LEAST(due, NOW + :9), expires = NOW + :10 WHERE id = :11 AND state = 0 AND expires > NOW AND lock_date = 0 AND version = :12 AND version <> :13 AND version1 <> :14 AND version2 <> :15 AND version3 <> :16;

-- saveMine
UPDATE "holdfast_sessions" SET version3 = version2, version2 = version1, version1 = version, version = :1, items = :2, packing = :3, timeout = :4, slide = :5, flags = :6, subject = :7, subject_hash = :8, due = LEAST(due, NOW + :9), expires = NOW + :10, lock_owner = 0, lock_date = 0 WHERE id = :11 AND state = 0 AND expires > NOW AND (lock_date = 0 OR ((lock_owner = :12 OR :13 = 0) AND (lock_cookie = :14 OR :15 = 0))) AND version = :16 AND version <> :17 AND version1 <> :18 AND version2 <> :19 AND version3 <> :20;

-- hold
UPDATE "holdfast_sessions" SET version3 = version2, version2 = version1, version1 = version, version = :1, items = :2, packing = :3, timeout = :4, slide = :5, flags = :6, subject = :7, subject_hash = :8, due = LEAST(due, NOW + :9), expires = GREATEST(NOW + :10, NOW + lock_timeout), acquired = :11, lock_cookie = CASE WHEN lock_date = 0 THEN :12 ELSE lock_cookie END, lock_owner = CASE WHEN lock_date = 0 THEN :13 ELSE lock_owner END, lock_date = NOW WHERE id = :14 AND state = 0 AND expires > NOW AND (lock_date = 0 OR ((lock_owner = :15 OR :16 = 0) AND (lock_cookie = :17 OR :18 = 0))) AND version = :19 AND version <> :20 AND version1 <> :21 AND version2 <> :22 AND version3 <> :23;

-- unlock
UPDATE "holdfast_sessions" SET expires = NOW + slide, lock_owner = 0, lock_date = 0 WHERE id = :1 AND state = 0 AND expires > NOW AND lock_date <> 0 AND (lock_owner = :2 OR :3 = 0) AND (lock_cookie = :4 OR :5 = 0);

-- remove
UPDATE "holdfast_sessions" SET ended_at = NOW, reason = :1, moved_to = :2, due = NOW + LEAST(GREATEST(slide, 2 * lock_timeout), 86400000000), subject_hash = NULL, lease = CASE WHEN NOT (MOD(flags, 2) = 1) AND :3 = 0 AND (:4 = 1 OR EXISTS (SELECT 1 FROM "holdfast_sessions_meta" WHERE kind = 2 AND meta_id = app_hash)) THEN NOW ELSE NULL END, items = CASE WHEN NOT (MOD(flags, 2) = 1) AND :5 = 0 AND (:6 = 1 OR EXISTS (SELECT 1 FROM "holdfast_sessions_meta" WHERE kind = 2 AND meta_id = app_hash)) THEN items ELSE NULL END, state = CASE WHEN NOT (MOD(flags, 2) = 1) AND :7 = 0 AND (:8 = 1 OR EXISTS (SELECT 1 FROM "holdfast_sessions_meta" WHERE kind = 2 AND meta_id = app_hash)) THEN 2 ELSE 1 END, lock_owner = 0, lock_date = 0 WHERE id = :9 AND state = 0 AND expires > NOW;

-- removeMine
UPDATE "holdfast_sessions" SET ended_at = NOW, reason = :1, moved_to = :2, due = NOW + LEAST(GREATEST(slide, 2 * lock_timeout), 86400000000), subject_hash = NULL, lease = CASE WHEN NOT (MOD(flags, 2) = 1) AND :3 = 0 AND (:4 = 1 OR EXISTS (SELECT 1 FROM "holdfast_sessions_meta" WHERE kind = 2 AND meta_id = app_hash)) THEN NOW ELSE NULL END, items = CASE WHEN NOT (MOD(flags, 2) = 1) AND :5 = 0 AND (:6 = 1 OR EXISTS (SELECT 1 FROM "holdfast_sessions_meta" WHERE kind = 2 AND meta_id = app_hash)) THEN items ELSE NULL END, state = CASE WHEN NOT (MOD(flags, 2) = 1) AND :7 = 0 AND (:8 = 1 OR EXISTS (SELECT 1 FROM "holdfast_sessions_meta" WHERE kind = 2 AND meta_id = app_hash)) THEN 2 ELSE 1 END, lock_owner = 0, lock_date = 0 WHERE id = :9 AND state = 0 AND expires > NOW AND lock_date <> 0 AND (lock_owner = :10 OR :11 = 0) AND (lock_cookie = :12 OR :13 = 0);

-- expire
UPDATE "holdfast_sessions" SET ended_at = expires, reason = 1, moved_to = NULL, due = NOW + LEAST(GREATEST(slide, 2 * lock_timeout), 86400000000), subject_hash = NULL, lease = CASE WHEN NOT (MOD(flags, 2) = 1) AND :1 = 0 AND (:2 = 1 OR EXISTS (SELECT 1 FROM "holdfast_sessions_meta" WHERE kind = 2 AND meta_id = app_hash)) THEN expires ELSE NULL END, items = CASE WHEN NOT (MOD(flags, 2) = 1) AND :3 = 0 AND (:4 = 1 OR EXISTS (SELECT 1 FROM "holdfast_sessions_meta" WHERE kind = 2 AND meta_id = app_hash)) THEN items ELSE NULL END, state = CASE WHEN NOT (MOD(flags, 2) = 1) AND :5 = 0 AND (:6 = 1 OR EXISTS (SELECT 1 FROM "holdfast_sessions_meta" WHERE kind = 2 AND meta_id = app_hash)) THEN 2 ELSE 1 END, lock_owner = 0, lock_date = 0 WHERE id = :7 AND state = 0 AND expires <= NOW;

-- forget
DELETE FROM "holdfast_sessions" WHERE id = :1 AND state = 1;

-- rename
UPDATE "holdfast_sessions" SET id = :1 WHERE id = :2 AND state = 2;

-- wantEnds
INSERT INTO "holdfast_sessions_meta" (kind, meta_id, value) VALUES (2, :1, 1);

-- claim
UPDATE "holdfast_sessions" SET lease = NOW + :1, lock_owner = :2 WHERE id IN (SELECT id FROM "holdfast_sessions" WHERE app_hash = :3 AND lease <= NOW ORDER BY lease FETCH NEXT :4 ROWS ONLY) AND lease <= NOW;

-- claimed
SELECT id, app, session_id, state, reason, moved_to, ended_at, expires, timeout, version, version1, version2, version3, acquired, lock_cookie, lock_owner, lock_date, created, flags, subject, NOW, packing, items FROM "holdfast_sessions" WHERE app_hash = :1 AND lock_owner = :2 AND lease > NOW - 60000000;

-- ack
UPDATE "holdfast_sessions" SET state = 1, lease = NULL, items = NULL WHERE id = :1 AND app_hash = :2 AND version = :3 AND state = 2;

-- ackRenamed
UPDATE "holdfast_sessions" SET state = 1, lease = NULL, items = NULL WHERE app_hash = :1 AND lease IS NOT NULL AND version = :2 AND state = 2;

-- tooMany
SELECT due FROM "holdfast_sessions" WHERE state = 2 ORDER BY due DESC OFFSET :1 ROWS FETCH NEXT 1 ROWS ONLY;

-- forgetEnds
UPDATE "holdfast_sessions" SET state = 1, lease = NULL, items = NULL WHERE id IN (SELECT id FROM "holdfast_sessions" WHERE state = 2 AND due <= :1 ORDER BY due FETCH NEXT 100 ROWS ONLY);

-- turn
UPDATE "holdfast_sessions_meta" SET value = NOW + :1 WHERE kind = 1 AND meta_id = 0 AND value <= NOW;

-- turnUntil
SELECT value FROM "holdfast_sessions_meta" WHERE kind = 1 AND meta_id = 0;

-- keepTurn
UPDATE "holdfast_sessions_meta" SET value = value + :1 WHERE kind = 1 AND meta_id = 0 AND value = :2;

-- turnOver
UPDATE "holdfast_sessions_meta" SET value = NOW + :1 WHERE kind = 1 AND meta_id = 0 AND value = :2;

-- due
SELECT due FROM "holdfast_sessions" WHERE state = 0 AND due <= NOW ORDER BY due FETCH NEXT 1 ROWS ONLY;

-- expireFirst
UPDATE "holdfast_sessions" SET ended_at = expires, reason = 1, moved_to = NULL, due = NOW + LEAST(GREATEST(slide, 2 * lock_timeout), 86400000000), subject_hash = NULL, lease = CASE WHEN NOT (MOD(flags, 2) = 1) AND :1 = 0 AND (:2 = 1 OR EXISTS (SELECT 1 FROM "holdfast_sessions_meta" WHERE kind = 2 AND meta_id = app_hash)) THEN expires ELSE NULL END, items = CASE WHEN NOT (MOD(flags, 2) = 1) AND :3 = 0 AND (:4 = 1 OR EXISTS (SELECT 1 FROM "holdfast_sessions_meta" WHERE kind = 2 AND meta_id = app_hash)) THEN items ELSE NULL END, state = CASE WHEN NOT (MOD(flags, 2) = 1) AND :5 = 0 AND (:6 = 1 OR EXISTS (SELECT 1 FROM "holdfast_sessions_meta" WHERE kind = 2 AND meta_id = app_hash)) THEN 2 ELSE 1 END, lock_owner = 0, lock_date = 0 WHERE id IN (SELECT id FROM "holdfast_sessions" WHERE state = 0 AND due <= NOW ORDER BY due FETCH NEXT 100 ROWS ONLY) AND state = 0 AND expires <= NOW;

-- delayFirst
UPDATE "holdfast_sessions" SET due = expires WHERE id IN (SELECT id FROM "holdfast_sessions" WHERE state = 0 AND due <= NOW ORDER BY due FETCH NEXT 100 ROWS ONLY) AND state = 0 AND expires > NOW;

-- forgetFirst
DELETE FROM "holdfast_sessions" WHERE id IN (SELECT id FROM "holdfast_sessions" WHERE state = 1 AND due <= NOW ORDER BY due FETCH NEXT 100 ROWS ONLY);

-- list
SELECT id, app, session_id, state, reason, moved_to, ended_at, expires, timeout, version, version1, version2, version3, acquired, lock_cookie, lock_owner, lock_date, created, flags, subject, NOW FROM "holdfast_sessions" WHERE state = 0 AND expires > NOW AND id > :1 AND id <= :2 ORDER BY id FETCH NEXT :3 ROWS ONLY;

-- listSubject
SELECT id, app, session_id, state, reason, moved_to, ended_at, expires, timeout, version, version1, version2, version3, acquired, lock_cookie, lock_owner, lock_date, created, flags, subject, NOW FROM "holdfast_sessions" WHERE subject_hash = :1 AND state = 0 AND expires > NOW AND id > :2 AND id <= :3 ORDER BY id FETCH NEXT :4 ROWS ONLY;

-- NOW is (EXTRACT(DAY FROM (SYS_EXTRACT_UTC(SYSTIMESTAMP) - TIMESTAMP '1970-01-01 00:00:00')) * 86400000000 + EXTRACT(HOUR FROM (SYS_EXTRACT_UTC(SYSTIMESTAMP) - TIMESTAMP '1970-01-01 00:00:00')) * 3600000000 + EXTRACT(MINUTE FROM (SYS_EXTRACT_UTC(SYSTIMESTAMP) - TIMESTAMP '1970-01-01 00:00:00')) * 60000000 + ROUND(EXTRACT(SECOND FROM (SYS_EXTRACT_UTC(SYSTIMESTAMP) - TIMESTAMP '1970-01-01 00:00:00')) * 1000000))

-- The script of the installer
CREATE TABLE "holdfast_sessions_meta" (
	kind NUMBER(19) NOT NULL,
	meta_id NUMBER(19) NOT NULL,
	value NUMBER(19) NOT NULL,
	PRIMARY KEY (kind, meta_id)
);

INSERT INTO "holdfast_sessions_meta" (kind, meta_id, value) VALUES (0, 7525352680829580148, 0);

CREATE TABLE "holdfast_sessions" (
	id RAW(32) NOT NULL,
	app RAW(1024),
	app_hash NUMBER(19) NOT NULL,
	session_id RAW(1024),
	state NUMBER(19) NOT NULL,
	due NUMBER(19) NOT NULL,
	created NUMBER(19) NOT NULL,
	expires NUMBER(19) NOT NULL,
	timeout NUMBER(19) NOT NULL,
	slide NUMBER(19) NOT NULL,
	version NUMBER(19) NOT NULL,
	version1 NUMBER(19) NOT NULL,
	version2 NUMBER(19) NOT NULL,
	version3 NUMBER(19) NOT NULL,
	acquired NUMBER(19) NOT NULL,
	lock_cookie NUMBER(19) NOT NULL,
	lock_owner NUMBER(19) NOT NULL,
	lock_date NUMBER(19) NOT NULL,
	lock_timeout NUMBER(19) NOT NULL,
	waited NUMBER(19) DEFAULT 0 NOT NULL,
	flags NUMBER(19) NOT NULL,
	subject RAW(1024),
	subject_hash NUMBER(19),
	ended_at NUMBER(19) NOT NULL,
	reason NUMBER(19) NOT NULL,
	moved_to RAW(1024),
	lease NUMBER(19),
	packing NUMBER(19) NOT NULL,
	items BLOB,
	PRIMARY KEY (id)
);

CREATE INDEX "holdfast_sessions_due" ON "holdfast_sessions" (state, due);

CREATE INDEX "holdfast_sessions_subject" ON "holdfast_sessions" (subject_hash, id);

CREATE INDEX "holdfast_sessions_ends" ON "holdfast_sessions" (app_hash, lease);

INSERT INTO "holdfast_sessions_meta" (kind, meta_id, value) VALUES (1, 0, 0);

UPDATE "holdfast_sessions_meta" SET value = 2 WHERE kind = 0 AND meta_id = 7525352680829580148 AND value = 0;

COMMIT;
