-- Trades that wait for a second person. Not derived: nothing is booked until somebody else says so.

create table back_office.approval (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    actor text not null,                   -- who wants it booked
    command jsonb not null,                -- the row of the trade input
    command_key text not null,             -- names the command: a repeat finds what already waits
    idempotency_key text not null,
    book text not null,
    trade_id text not null,
    notional numeric not null,
    currency text not null,
    allowed numeric not null,              -- what goes without a second person
    state text not null default 'WAITING' check (state in ('WAITING', 'APPROVED', 'BOOKED', 'REFUSED', 'REJECTED')),
    decided_by text,
    decided_at timestamptz,
    reason text not null default '',       -- of whoever rejected it, or of the core that refused it
    sequence bigint,                       -- of the event, once it is booked
    unique (actor, command_key),
    check (decided_by is null or decided_by <> actor)
);
create index approval_waiting on back_office.approval (id) where state in ('WAITING', 'APPROVED');

grant select, insert, update on back_office.approval to pks_gateway;
grant select on back_office.approval to pks_reader;
