-- Users, what they may do, their sessions, and who did what. Not derived: the journal has none of it, so it is kept as a database is kept.
-- A password is here as argon2id has it, a refresh token as its SHA-256; a token that grants access is nowhere.

do $$
begin
    if not exists (select from pg_roles where rolname = 'pks_gateway') then create role pks_gateway nologin; end if;
    if not pg_has_role(current_user, 'pks_gateway', 'set') then execute format('grant pks_gateway to %I', current_user); end if;
end $$;

create schema auth;

create table auth.role (
    name text primary key,                -- what each may do is in the program (pks/bff/access.py)
    says text not null
);
insert into auth.role values
    ('viewer', 'reads the books that are granted'),
    ('trader', 'books and corrects in them too'),
    ('operations', 'books and corrects, keeps reference data, works on dead letters and alerts'),
    ('approver', 'lets a trade go on that waits for a second person'),
    ('admin', 'everything, in every book');

create table auth."user" (
    name text primary key check (name ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$'),
    password text check (password like '$argon2id$%'),    -- null: no login by password, only tokens that are issued
    all_books boolean not null default false,
    is_disabled boolean not null default false,
    failures integer not null default 0,  -- wrong passwords in a row
    locked_until timestamptz,
    made_at timestamptz not null default now(),
    password_at timestamptz,
    login_at timestamptz                  -- the last that went well
);
create unique index user_name_folded on auth."user" (lower(name));

create table auth.user_role (
    user_name text not null references auth."user",
    role text not null references auth.role,
    primary key (user_name, role)
);

create table auth.book_grant (
    user_name text not null references auth."user",
    book text not null check (book <> '' and length(book) <= 64),
    primary key (user_name, book)
);

-- A login, or a token that was issued by command: the family of its tokens.
create table auth.session (
    id text primary key,
    user_name text not null references auth."user",
    origin text not null check (origin in ('LOGIN', 'ISSUED')),
    address text not null,
    made_at timestamptz not null default now(),
    used_at timestamptz not null default now(),    -- the last refresh
    expires_at timestamptz not null,
    revoked_at timestamptz,
    reason text                           -- of the revocation
);
create index session_of_user on auth.session (user_name, expires_at);

-- One access token, and the refresh token that came with it. Each refresh token is good once: a second use revokes the family.
create table auth.token (
    jti text primary key,
    session text not null references auth.session on delete cascade,
    refresh_sha256 bytea unique check (length(refresh_sha256) = 32),
    made_at timestamptz not null default now(),
    expires_at timestamptz not null,      -- of the access token
    used_at timestamptz,                  -- of the refresh token
    blocked_at timestamptz                -- of the access token: from then until it expires it is on the blocklist
);
create index token_session on auth.token (session);
create index token_blocked on auth.token (expires_at) where blocked_at is not null;

create table auth.audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    actor text not null,                  -- who did it: a user, or "command line"
    action text not null,                 -- LOGIN, BOOK, USER_CHANGED ...
    subject text not null,                -- what it was done to
    outcome text not null check (outcome in ('OK', 'REFUSED')),
    code text not null,                   -- why it was refused
    address text not null,
    session text not null,
    detail jsonb not null
);
create index audit_actor on auth.audit (actor, id);

-- What is written there stays, for the owner of the table as well.
create function auth.refuse() returns trigger language plpgsql as $$
begin
    raise exception 'auth.audit is only added to' using errcode = 'insufficient_privilege';
end $$;
create trigger append_only before update or delete or truncate on auth.audit for each statement execute function auth.refuse();

-- The number grows with each change of what somebody may do; it is locked until the change is committed, so its order is theirs.
create table auth.version (number bigint not null);
insert into auth.version values (1);

create function auth.changed() returns trigger language plpgsql as $$
begin
    update auth.version set number = number + 1;
    notify pks_auth;
    return null;
end $$;
create trigger changed after insert or update of all_books, is_disabled on auth."user" for each statement execute function auth.changed();
create trigger changed after insert or update or delete on auth.user_role for each statement execute function auth.changed();
create trigger changed after insert or update or delete on auth.book_grant for each statement execute function auth.changed();
create trigger changed after update of blocked_at on auth.token for each statement execute function auth.changed();

-- rights: what a reader may see elsewhere, dead letters to be worked on, and this schema but for its history ----------------------------

grant pks_reader to pks_gateway;
grant update on back_office.dead_letter to pks_gateway;
grant usage on schema auth to pks_gateway;
grant select on all tables in schema auth to pks_gateway;
grant insert, update on auth."user", auth.session, auth.token to pks_gateway;
grant insert, delete on auth.user_role, auth.book_grant to pks_gateway;
grant delete on auth.session, auth.token to pks_gateway;
grant insert on auth.audit to pks_gateway;
grant update on auth.version to pks_gateway;
