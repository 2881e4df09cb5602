-- Version 1 of the schema. A later version is a further step in migrate.rs, not a change here.
--
-- Records are the JSON envelopes of store/codec. Everything beside a record's body is taken from it, for the queries
-- that need it: names and hashes as in store/sled/keys, times as nanoseconds since 1970, as the callers' clocks tell
-- them. Leases and holds run by the clock of the database alone.
--
-- Locks are taken in this order, so that no two transactions wait for each other: advisory locks, an order, its jobs.

CREATE TABLE accounts (
  id bytea PRIMARY KEY,
  version bigint NOT NULL,
  body bytea NOT NULL,
  key bytea NOT NULL UNIQUE,
  one_time_key bytea UNIQUE
);

CREATE TABLE orders (
  id bytea PRIMARY KEY,
  version bigint NOT NULL,
  body bytea NOT NULL,
  account bytea NOT NULL,
  upstream text NOT NULL,
  -- Stands for the names, and for the names at the upstream.
  names bytea NOT NULL,
  line bytea NOT NULL,
  -- The place in the line; 0 if it is open at the CA, 1 if not. NULL if it is not in line.
  line_rank smallint,
  line_since bigint,
  certificate bytea,
  certificate_id bytea,
  late_certificate bytea,
  hands_over boolean NOT NULL,
  renewal_due bigint,
  replaces bytea UNIQUE,
  counts_since bigint,
  -- The end of a client's certificate that is not revoked.
  valid_until bigint,
  delete_after bigint NOT NULL
);
CREATE INDEX ON orders (account, id);
CREATE INDEX ON orders (line, line_rank, line_since, id) WHERE line_rank IS NOT NULL;
-- Of those in a line one is open at the CA, whichever replica was first.
CREATE UNIQUE INDEX ON orders (line) WHERE line_rank = 0;
CREATE INDEX ON orders (account, names) WHERE certificate IS NOT NULL;
CREATE INDEX ON orders (certificate) WHERE certificate IS NOT NULL;
CREATE INDEX ON orders (certificate_id) WHERE certificate_id IS NOT NULL;
CREATE INDEX ON orders (late_certificate) WHERE late_certificate IS NOT NULL;
CREATE INDEX ON orders (account, line, id) WHERE hands_over;
CREATE INDEX ON orders (upstream, renewal_due, id) WHERE renewal_due IS NOT NULL;
CREATE INDEX ON orders (names, valid_until) WHERE valid_until IS NOT NULL;
CREATE INDEX ON orders (delete_after);

-- The names that orders count for (policy.per_name).
CREATE TABLE counted_names (
  order_id bytea NOT NULL,
  name bytea NOT NULL,
  since bigint NOT NULL,
  PRIMARY KEY (order_id, name)
);
CREATE INDEX ON counted_names (name, since);

CREATE TABLE issuers (
  fingerprint bytea PRIMARY KEY,
  body bytea NOT NULL
);

-- What only those with the secret can read: named values, and external account keys.
CREATE TABLE sealed (
  name text COLLATE "C" PRIMARY KEY,
  version bigint NOT NULL,
  body bytea NOT NULL
);

-- A job with a token is leased, until that time. The holder's is found by its work: to compare tokens with = would let the
-- planner look through the leases of all.
--
-- `leads` finds the owners whose turn it is without a look at all the jobs that wait: of the jobs that an owner has
-- waiting in a lane, the one that has been due longest always leads. Others may, until lease() meets them.
CREATE TABLE jobs (
  work text COLLATE "C" PRIMARY KEY,
  order_id bytea NOT NULL,
  lane text COLLATE "C" NOT NULL,
  owner bytea NOT NULL,
  since bigint NOT NULL,
  due bigint NOT NULL,
  body bytea NOT NULL,
  leads boolean NOT NULL DEFAULT true,
  token bigint,
  until timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX ON jobs (lane, due, work) WHERE token IS NULL AND leads;
CREATE INDEX ON jobs (lane, owner, due, work) WHERE token IS NULL;
CREATE INDEX ON jobs (lane, until) WHERE token IS NOT NULL;
CREATE INDEX ON jobs (order_id);

-- Work of the same name that came while a job was leased: it is done after that.
CREATE TABLE jobs_after (
  work text COLLATE "C" PRIMARY KEY,
  lane text COLLATE "C" NOT NULL,
  owner bytea NOT NULL,
  since bigint NOT NULL,
  due bigint NOT NULL,
  body bytea NOT NULL
);

CREATE TABLE nonces (
  nonce bytea PRIMARY KEY,
  until bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
CREATE INDEX ON nonces (until);

CREATE TABLE holds (
  what text COLLATE "C" PRIMARY KEY,
  token bigint NOT NULL,
  until timestamptz NOT NULL
);

-- The changes that were written, by a name that each has of its own; and those that must not be any more.
CREATE TABLE attempts (
  attempt bytea PRIMARY KEY,
  made timestamptz NOT NULL DEFAULT clock_timestamp(),
  barred boolean NOT NULL DEFAULT false
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
CREATE INDEX ON attempts (made);

-- Whether the change of that name was written. If it was not, it can not be any more: a change that is still under way
-- is waited for, and one that has not begun finds its name taken.
CREATE FUNCTION was_written(_attempt bytea) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO attempts (attempt, barred) VALUES (_attempt, true) ON CONFLICT DO NOTHING;
  RETURN (SELECT NOT barred FROM attempts WHERE attempt = _attempt);
END $$;

CREATE FUNCTION put_account(
  _attempt bytea, _expected bigint, _id bytea, _body bytea, _key bytea, _one_time_key bytea
) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  IF _expected = 0 THEN
    INSERT INTO accounts VALUES (_id, 1, _body, _key, _one_time_key) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
      RETURN CASE WHEN EXISTS (SELECT FROM accounts WHERE id = _id) THEN 'conflict' ELSE 'taken' END;
    END IF;
  ELSE
    UPDATE accounts SET version = _expected + 1, body = _body, key = _key, one_time_key = _one_time_key
      WHERE id = _id AND version = _expected;
    IF NOT FOUND THEN
      RETURN 'conflict';
    END IF;
  END IF;
  INSERT INTO attempts (attempt) VALUES (_attempt);
  RETURN 'written';
END $$;

CREATE FUNCTION put_sealed(_attempt bytea, _expected bigint, _name text, _body bytea)
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  IF _expected = 0 THEN
    INSERT INTO sealed VALUES (_name, 1, _body) ON CONFLICT DO NOTHING;
  ELSE
    UPDATE sealed SET version = _expected + 1, body = _body WHERE name = _name AND version = _expected;
  END IF;
  IF NOT FOUND THEN
    RETURN 'conflict';
  END IF;
  INSERT INTO attempts (attempt) VALUES (_attempt);
  RETURN 'written';
END $$;

-- A part of the changes below. If it gives 'conflict', it has written nothing.
CREATE FUNCTION put_order(_expected bigint, _row jsonb, _body bytea, _counted bytea[])
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  new orders := jsonb_populate_record(NULL::orders, _row);
BEGIN
  new.version := _expected + 1;
  new.body := _body;
  IF _expected = 0 THEN
    INSERT INTO orders SELECT new.* ON CONFLICT DO NOTHING;
  ELSE
    UPDATE orders SET
      version = new.version, body = new.body, account = new.account, upstream = new.upstream, names = new.names,
      line = new.line, line_rank = new.line_rank, line_since = new.line_since, certificate = new.certificate,
      certificate_id = new.certificate_id, late_certificate = new.late_certificate, hands_over = new.hands_over,
      renewal_due = new.renewal_due, replaces = new.replaces, counts_since = new.counts_since,
      valid_until = new.valid_until, delete_after = new.delete_after
      WHERE id = new.id AND version = _expected;
  END IF;
  IF NOT FOUND THEN
    RETURN 'conflict';
  END IF;
  IF NOT EXISTS (SELECT FROM counted_names WHERE order_id = new.id AND since = new.counts_since) THEN
    DELETE FROM counted_names WHERE order_id = new.id;
    INSERT INTO counted_names SELECT new.id, name, new.counts_since FROM unnest(_counted) name
      ON CONFLICT DO NOTHING;
  END IF;
  RETURN 'written';
END $$;

-- A job of these owners in these lanes no longer waits: the next one of each leads. One that is locked is about to be
-- leased or to go, and whoever does that sees to the next one as well.
CREATE FUNCTION pass_lead_on(_lanes text[], _owners bytea[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE jobs SET leads = true WHERE NOT leads AND work IN (
    SELECT next.work FROM (SELECT DISTINCT * FROM unnest(_lanes, _owners) gone(lane, owner)) gone
    CROSS JOIN LATERAL (
      SELECT work FROM jobs
      WHERE lane = gone.lane AND owner = gone.owner AND token IS NULL
      ORDER BY due, work LIMIT 1 FOR UPDATE SKIP LOCKED
    ) next
  );
END $$;

-- A part of the changes below: a job is added, or takes the place of the one of its name that waits.
CREATE FUNCTION add_job(_row jsonb, _body bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  new jobs := jsonb_populate_record(NULL::jobs, _row);
  old jobs;
BEGIN
  SELECT * INTO old FROM jobs WHERE work = new.work FOR UPDATE;
  IF NOT FOUND THEN
    INSERT INTO jobs (work, order_id, lane, owner, since, due, body)
      VALUES (new.work, new.order_id, new.lane, new.owner, new.since, new.due, _body);
  ELSIF old.token IS NULL THEN
    UPDATE jobs SET lane = new.lane, owner = new.owner, since = new.since, due = new.due, body = _body, leads = true
      WHERE work = new.work;
    PERFORM pass_lead_on(ARRAY[old.lane], ARRAY[old.owner]);
  ELSE
    INSERT INTO jobs_after VALUES (new.work, new.lane, new.owner, new.since, new.due, _body)
      ON CONFLICT (work) DO UPDATE SET lane = new.lane, owner = new.owner, since = new.since, due = new.due,
        body = _body;
  END IF;
END $$;

-- A leased job, which the caller has locked, waits again or is done. What came after it takes its place.
CREATE FUNCTION give_back(_work text, _row jsonb, _body bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  next jobs_after;
BEGIN
  DELETE FROM jobs_after WHERE work = _work RETURNING * INTO next;
  IF NOT FOUND THEN
    IF _row IS NULL THEN
      DELETE FROM jobs WHERE work = _work;
      RETURN;
    END IF;
    next := jsonb_populate_record(NULL::jobs_after, _row);
    next.body := _body;
  END IF;
  UPDATE jobs SET lane = next.lane, owner = next.owner, since = next.since, due = next.due, body = next.body,
    leads = true, token = NULL, until = NULL
    WHERE work = _work;
END $$;

-- Makes or replaces an order, with the job that the change causes, if each of these names then has no more orders that
-- count than it may have.
CREATE FUNCTION write_order(
  _attempt bytea, _expected bigint, _row jsonb, _body bytea, _counted bytea[], _job jsonb, _job_body bytea,
  _quota_names bytea[], _quota_since bigint[], _quota_most bigint[]
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  outcome text;
BEGIN
  IF cardinality(_quota_names) > 0 THEN
    PERFORM pg_advisory_xact_lock(1, lock) FROM (
      SELECT DISTINCT hashtext(encode(name, 'hex')) AS lock FROM unnest(_quota_names) name ORDER BY lock
    ) locks;
    IF EXISTS (
      SELECT FROM unnest(_quota_names, _quota_since, _quota_most) quota(name, since, most)
      WHERE (
        SELECT count(*) FROM (
          SELECT FROM counted_names c WHERE c.name = quota.name AND c.since >= quota.since LIMIT quota.most
        ) found
      ) >= quota.most
    ) THEN
      RETURN 'conflict';
    END IF;
  END IF;
  outcome := put_order(_expected, _row, _body, _counted);
  IF outcome <> 'written' THEN
    RETURN outcome;
  END IF;
  IF _job IS NOT NULL THEN
    PERFORM add_job(_job, _job_body);
  END IF;
  INSERT INTO attempts (attempt) VALUES (_attempt);
  RETURN 'written';
END $$;

-- Replaces an order in the midst of a job that is leased under this token.
CREATE FUNCTION checkpoint_order(
  _attempt bytea, _work text, _token bigint, _expected bigint, _row jsonb, _body bytea, _counted bytea[]
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  outcome text;
BEGIN
  PERFORM FROM orders WHERE id = (_row ->> 'id')::bytea FOR UPDATE;
  PERFORM FROM jobs WHERE work = _work AND token IS NOT DISTINCT FROM _token FOR UPDATE;
  IF NOT FOUND THEN
    RETURN 'lost';
  END IF;
  outcome := put_order(_expected, _row, _body, _counted);
  IF outcome = 'written' THEN
    INSERT INTO attempts (attempt) VALUES (_attempt);
  END IF;
  RETURN outcome;
END $$;

-- Gives a job back that is leased under this token, with the order that it has changed, if there is one.
CREATE FUNCTION settle_job(
  _attempt bytea, _work text, _token bigint, _next jsonb, _next_body bytea,
  _expected bigint, _row jsonb, _body bytea, _counted bytea[], _issuers bytea[], _issuer_bodies bytea[]
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  outcome text;
BEGIN
  IF _row IS NOT NULL THEN
    PERFORM FROM orders WHERE id = (_row ->> 'id')::bytea FOR UPDATE;
  END IF;
  PERFORM FROM jobs WHERE work = _work AND token IS NOT DISTINCT FROM _token FOR UPDATE;
  IF NOT FOUND THEN
    RETURN 'lost';
  END IF;
  IF _row IS NOT NULL THEN
    outcome := put_order(_expected, _row, _body, _counted);
    IF outcome <> 'written' THEN
      RETURN outcome;
    END IF;
  END IF;
  INSERT INTO issuers SELECT * FROM unnest(_issuers, _issuer_bodies) new(fingerprint, body) ORDER BY fingerprint
    ON CONFLICT DO NOTHING;
  PERFORM give_back(_work, _next, _next_body);
  INSERT INTO attempts (attempt) VALUES (_attempt);
  RETURN 'written';
END $$;

-- Gives a leased job back without a fault and without a change. To lose that in a crash costs one look too early, so
-- nobody waits for the disk.
CREATE FUNCTION put_off_job(_work text, _token bigint, _next jsonb, _next_body bytea)
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM jobs WHERE work = _work AND token IS NOT DISTINCT FROM _token FOR UPDATE;
  IF NOT FOUND THEN
    RETURN 'lost';
  END IF;
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM give_back(_work, _next, _next_body);
  RETURN 'written';
END $$;

-- Takes due jobs of a lane, as Store::lease says. One process at a time does so in one lane, and nobody waits for the
-- disk: a lease that a crash of the server loses is a job that is begun once more, whose first holder settles nothing.
CREATE FUNCTION lease_jobs(_lane text, _now bigint, _span interval, _limit bigint, _share bigint, _most bigint)
RETURNS TABLE (leased_work text, leased_body bytea, leased_token bigint) LANGUAGE plpgsql AS $$
DECLARE
  places bigint;
  held bigint[];
  owners bytea[];
  free_owners bytea[] := '{}';
  seen bytea[] := '{}';
  leaders text[] := '{}';
  others text[] := '{}';
  leader record;
  works text[];
BEGIN
  PERFORM pg_advisory_xact_lock(2, hashtext(_lane));
  PERFORM set_config('synchronous_commit', 'off', true);

  -- What has run out goes back, unless it is being settled.
  PERFORM give_back(over.work, to_jsonb(over), over.body) FROM (
    SELECT work, lane, owner, since, due, body FROM jobs
    WHERE lane = _lane AND token IS NOT NULL AND until <= clock_timestamp() FOR UPDATE SKIP LOCKED
  ) over;

  SELECT array_agg(holder.owner), array_agg(leases), _most - coalesce(sum(leases), 0) INTO owners, held, places
    FROM (SELECT owner, count(*) AS leases FROM jobs WHERE lane = _lane AND token IS NOT NULL GROUP BY owner) holder;
  places := least(places, _limit);
  IF places <= 0 OR _share <= 0 THEN
    RETURN;
  END IF;

  -- As many owners who hold nothing as there are places, those first whose jobs have been due longest.
  FOR leader IN
    SELECT work, owner FROM jobs
    WHERE lane = _lane AND token IS NULL AND leads AND due <= _now ORDER BY due, work
  LOOP
    IF leader.owner = ANY (seen) THEN
      others := others || leader.work;
    ELSE
      seen := seen || leader.owner;
      leaders := leaders || leader.work;
      IF owners IS NULL OR leader.owner <> ALL (owners) THEN
        free_owners := free_owners || leader.owner;
      END IF;
    END IF;
    EXIT WHEN cardinality(free_owners) >= places OR cardinality(others) >= 5000;
  END LOOP;

  -- Each job is met once: of one owner's, all but the first lead no more. That one must not go meanwhile.
  IF cardinality(others) > 0 THEN
    WITH waiting AS MATERIALIZED (
      SELECT work, owner, due FROM jobs
      WHERE work = ANY (leaders || others) AND lane = _lane AND token IS NULL AND leads FOR UPDATE SKIP LOCKED
    )
    UPDATE jobs SET leads = false FROM (
      SELECT work, row_number() OVER (PARTITION BY owner ORDER BY due, work) AS place FROM waiting
    ) ranked
    WHERE jobs.work = ranked.work AND place > 1;
  END IF;

  -- A turn is the number of leases that the owner holds when it comes to this job.
  -- Names go from one statement to the next as arrays, for which the planner expects few rows.
  SELECT array_agg(work ORDER BY turn, due, work) INTO works FROM (
    SELECT waiting.work, waiting.due, leases + waiting.place AS turn
    FROM (
      SELECT * FROM unnest(owners, held) UNION ALL SELECT free_owner, 0 FROM unnest(free_owners) free_owner
    ) holder(owner, leases)
    CROSS JOIN LATERAL (
      SELECT work, due, row_number() OVER (ORDER BY due, work) - 1 AS place FROM jobs
      WHERE lane = _lane AND owner = holder.owner AND token IS NULL AND due <= _now
      ORDER BY due, work LIMIT greatest(least(places, _share - leases), 0)
    ) waiting
    ORDER BY turn, due, work LIMIT places
  ) turns;
  WITH chosen AS (
    SELECT work FROM jobs
    WHERE work = ANY (works) AND lane = _lane AND token IS NULL AND due <= _now
    FOR UPDATE SKIP LOCKED
  ), leased AS (
    UPDATE jobs SET token = hashtextextended(gen_random_uuid()::text, 0), until = clock_timestamp() + _span
    FROM chosen WHERE jobs.work = chosen.work RETURNING jobs.work, jobs.owner
  )
  SELECT array_agg(work ORDER BY array_position(works, work)), array_agg(owner) INTO works, owners FROM leased;

  PERFORM pass_lead_on(ARRAY(SELECT _lane FROM unnest(owners)), owners);
  RETURN QUERY SELECT jobs.work, jobs.body, jobs.token
    FROM unnest(works) WITH ORDINALITY leased(work, place) JOIN jobs USING (work) ORDER BY place;
END $$;

-- Lets a lease hold for that long from now on. As when it was taken, nobody waits for the disk.
CREATE FUNCTION renew_lease(_work text, _token bigint, _span interval) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  UPDATE jobs SET until = clock_timestamp() + _span
    WHERE work = _work AND token IS NOT DISTINCT FROM _token;
  RETURN CASE WHEN FOUND THEN 'written' ELSE 'lost' END;
END $$;

-- Deletes orders whose time is over by the slower clock, the caller's or this one, with their jobs of these kinds. Gives
-- how many.
CREATE FUNCTION sweep_orders(_now bigint, _limit bigint, _kinds text[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  now bigint := least(_now, (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint);
  ids bytea[];
  lanes text[];
  owners bytea[];
BEGIN
  SELECT array_agg(id) INTO ids FROM (
    SELECT id FROM orders WHERE delete_after <= now ORDER BY delete_after LIMIT _limit FOR UPDATE SKIP LOCKED
  ) over;
  IF ids IS NULL THEN
    RETURN 0;
  END IF;
  DELETE FROM orders WHERE id = ANY (ids);
  DELETE FROM counted_names WHERE order_id = ANY (ids);
  WITH gone AS (
    DELETE FROM jobs WHERE order_id = ANY (ids) AND split_part(lane, '/', 1) = ANY (_kinds)
    RETURNING work, lane, owner
  ), after AS (
    DELETE FROM jobs_after USING gone WHERE jobs_after.work = gone.work
  )
  SELECT array_agg(lane), array_agg(owner) INTO lanes, owners FROM gone;
  PERFORM pass_lead_on(lanes, owners);
  RETURN cardinality(ids);
END $$;

-- Deletes marks that nobody asks for any more. Gives how many. A nonce is of no use once its time is over by the clock
-- of whoever takes it: some minutes more than that, by the slowest clock that is known. The outcome of a change is looked
-- up for some minutes (statement.rs).
CREATE FUNCTION sweep_marks(_now bigint, _limit bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  now bigint := least(_now, (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint);
  -- Not in the statement: what may change from row to row is no condition of an index.
  bygone timestamptz := clock_timestamp() - interval '15 minutes';
  old_nonces bytea[];
  old_attempts bytea[];
BEGIN
  SELECT array_agg(nonce) INTO old_nonces FROM (
    SELECT nonce FROM nonces WHERE until < now - 300000000000 ORDER BY until LIMIT _limit FOR UPDATE SKIP LOCKED
  ) old;
  DELETE FROM nonces WHERE nonce = ANY (old_nonces);
  SELECT array_agg(attempt) INTO old_attempts FROM (
    SELECT attempt FROM attempts WHERE made < bygone ORDER BY made LIMIT _limit FOR UPDATE SKIP LOCKED
  ) old;
  DELETE FROM attempts WHERE attempt = ANY (old_attempts);
  RETURN greatest(cardinality(old_nonces), cardinality(old_attempts), 0);
END $$;
