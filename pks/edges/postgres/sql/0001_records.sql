-- Records of what the journal says: trades, lifecycle, lot matches, reference data, positions, the journal's second copy, cursors.
-- Derived, apart from dead_letter and alert: dropped rows come back from the journal. Decimals are exact; *_ns are nanoseconds UTC, and the
-- timestamptz beside each is the same, cut to microseconds, for people. A date is a calendar date. Sequences are numbers of events.

do $$
begin
    if not exists (select from pg_roles where rolname = 'pks_edge') then create role pks_edge nologin; end if;
    if not exists (select from pg_roles where rolname = 'pks_reader') then create role pks_reader nologin; end if;
    if not pg_has_role(current_user, 'pks_edge', 'set') then execute format('grant pks_edge to %I', current_user); end if;
end $$;

create schema if not exists back_office;
create schema if not exists trade;
create schema if not exists position;

-- one row an edge: the last event whose rows are here, with that event's checksum, so that another journal is noticed
create table back_office.edge_cursor (
    edge text primary key,
    sequence bigint not null check (sequence >= 0),
    checksum bigint not null,
    instance text not null,
    updated_at timestamptz not null default now()
);

-- reference data as last defined -----------------------------------------------------------------------------------------------

create table back_office.currency (
    id bigint primary key, code text not null unique, name text not null, minor_digits integer not null, sequence bigint not null,
    definition jsonb not null
);
create table back_office.entity (
    id bigint primary key, code text not null unique, name text not null, lei text not null, country text not null,
    functional_currency text not null, timezone text not null, sequence bigint not null, definition jsonb not null
);
create table back_office.book (
    id bigint primary key, code text not null unique, name text not null, entity text not null, desk text not null, method text not null,
    oversell text not null, fees_in_cost boolean not null, report_currency text not null, zone text not null, sequence bigint not null,
    definition jsonb not null
);
create table back_office.account (
    id bigint primary key, code text not null unique, entity text not null, account_type text not null, currency text not null,
    custodian text not null, bic text not null, purpose text not null, sequence bigint not null, definition jsonb not null
);
create table back_office.instrument (
    id bigint primary key, code text not null unique, asset_class text not null, symbol text not null, name text not null, isin text not null,
    figi text not null, ric text not null, cusip text not null, mic text not null, currency text not null, settle_ccy text not null,
    base_currency text not null, contract_type text not null, multiplier text not null, quote_factor text not null, price_scale integer not null,
    qty_scale integer not null, money_scale integer not null, expiry text not null, underlying text not null, sequence bigint not null,
    definition jsonb not null
);
create table back_office.source (
    id bigint primary key, code text not null unique, name text not null, recurs integer not null, sequence bigint not null,
    definition jsonb not null
);
create table back_office.class_method (
    id bigint primary key, code text not null unique, book text not null, asset_class text not null, method text not null,
    sequence bigint not null, definition jsonb not null
);
create table back_office.routing_rule (
    id bigint primary key, code text not null unique, venue text not null, account text not null, source text not null, book text not null,
    priority integer not null, sequence bigint not null, definition jsonb not null
);

-- trades -----------------------------------------------------------------------------------------------------------------------

-- One row a booked trade, opening lot, allocation or transfer, as it stands now. What was refused is not here.
create table trade.trade (
    sequence bigint primary key,          -- the event that booked it
    last_sequence bigint not null,        -- the last event that changed it
    revision integer not null,            -- versions that it has had, those before it moved here too
    status text not null check (status in ('BOOKED', 'AMENDED', 'CANCELLED', 'UNALLOCATED', 'ALLOCATED')),
    kind text not null check (kind in ('TRADE', 'OPENING', 'ALLOCATION', 'TRANSFER')),
    leg integer not null,
    book_id bigint not null,
    to_book_id bigint not null,
    instrument_id bigint not null,
    account_id bigint not null,
    parent bigint,                        -- the block of an allocation, or the trade from which an amend moved it here
    cancelled_by bigint,
    replaced_by bigint,                   -- the trade that took its place when an amend moved it to another book or instrument
    allocated_by bigint,
    trade_time_ns bigint not null,
    trade_time timestamptz,
    recorded_ns bigint not null,
    recorded_at timestamptz not null,
    business_date date not null,
    settle_date date,
    open_date date,
    fee_unknown boolean not null,
    quantity numeric not null,
    price numeric,
    fee numeric,                          -- its own; those that came later are in trade.fee, the sums in trade.fee_total
    trade_id text not null,
    source text,
    book text,
    to_book text,
    instrument text,
    side text check (side in ('BUY', 'SELL')),
    account text,
    to_account text,
    fee_currency text,
    venue text,
    order_id text,
    counterparty text,
    lot_id text,
    details jsonb                         -- all texts that came with it
);
create index trade_trade_id on trade.trade (trade_id);
create index trade_key on trade.trade (book_id, instrument_id);

-- Fees that came after their trade.
create table trade.fee (
    sequence bigint primary key,
    trade bigint not null,
    trade_time_ns bigint not null,
    recorded_ns bigint not null,
    amount numeric not null,
    currency text
);
create index fee_trade on trade.fee (trade);

create view trade.fee_total as
    select trade, currency, sum(amount) as amount
    from (
        select sequence as trade, fee_currency as currency, fee as amount from trade.trade where fee is not null and fee <> 0
        union all
        select trade, currency, amount from trade.fee where amount <> 0
    ) as every
    group by trade, currency;

-- Every applied event that is not a plain trade, in the words of `pks journal dump`.
create table trade.lifecycle_event (
    sequence bigint primary key,
    trade bigint,                         -- the trade that it corrects; the block of an allocation
    recorded_ns bigint not null,
    recorded_at timestamptz not null,
    kind text not null,
    trade_id text,
    book text,
    instrument text,
    event jsonb not null
);
create index lifecycle_trade on trade.lifecycle_event (trade);

-- Which lots each closing consumed, each transfer moved. A later set of the same (sequence, book, instrument) replaces the one before it.
create table position.lot_match (
    sequence bigint not null,             -- the closing event; an amended trade keeps its original's
    book_id bigint not null,
    instrument_id bigint not null,
    revision bigint not null,
    index bigint not null,
    count bigint not null,
    cause bigint not null,                -- the event that made this set: itself, or the correction
    recorded_ns bigint not null,          -- of the cause
    recorded_at timestamptz not null,
    is_current boolean not null,
    open_sequence bigint,
    open_leg integer not null,
    open_date date,
    business_date date not null,
    lot_flags integer not null,
    code integer not null,
    quantity numeric not null,            -- signed as the lot was
    open_price numeric not null,
    close_price numeric not null,
    cost numeric not null,                -- with multiplier and quote factor
    realised_gross numeric not null,
    kind text not null,
    book text,
    instrument text,
    currency text,
    primary key (sequence, book_id, instrument_id, revision, index)
);

create view position.current_match as select * from position.lot_match where is_current and kind <> 'NO_MATCH';

-- positions, by the shadow -------------------------------------------------------------------------------------------------------

create table back_office.position_snapshot (
    book_id bigint not null,
    instrument_id bigint not null,
    book text not null,
    instrument text not null,
    quantity numeric not null,
    average_price numeric,
    cost numeric not null,
    realised_gross numeric not null,
    realised_net numeric not null,
    fees jsonb not null,
    open_lots integer not null,
    currency text not null,
    last_trade_time_ns bigint not null,
    last_trade_time timestamptz,
    last_sequence bigint not null,
    state bytea not null,                 -- the key, its lots and accounts as they are in a checkpoint
    primary key (book_id, instrument_id)
);

-- What else the fold holds: one row.
create table back_office.shadow_state (
    name text primary key,
    sequence bigint not null,
    state bytea not null
);

-- the journal's second copy ------------------------------------------------------------------------------------------------------

create table back_office.journal_copy (
    first bigint primary key,
    last bigint not null check (last >= first),
    records bytea not null                -- zlib of the 256-byte records first..last
);
alter table back_office.journal_copy alter column records set storage external;

-- what could not be carried, and who was told ----------------------------------------------------------------------------------------

create table back_office.dead_letter (
    id bigint generated always as identity primary key,
    subject text not null,                -- as it was
    headers jsonb not null,
    payload bytea not null,
    consumer text not null,
    stream text not null,
    stream_sequence bigint not null,
    class text not null check (class in ('MALFORMED', 'UNKNOWN_REF', 'CONFLICT', 'TRANSIENT', 'POISON')),
    state text not null check (state in ('RECEIVED', 'CLASSIFIED', 'RETRYING', 'REPLAYED', 'QUARANTINED', 'RESOLVED')),
    code text,
    field text,
    value text,
    reason text,
    attempts integer not null default 0,
    first_at timestamptz not null default now(),
    last_at timestamptz not null default now(),
    next_at timestamptz,
    resolution text,
    resolved_at timestamptz,
    unique (stream, stream_sequence, consumer)
);
create index dead_letter_open on back_office.dead_letter (state, next_at) where state not in ('REPLAYED', 'RESOLVED');

create table back_office.alert (
    id bigint generated always as identity primary key,
    class text not null,
    severity text not null check (severity in ('INFO', 'WARNING', 'CRITICAL')),
    window_start timestamptz not null,
    count integer not null default 1,
    text text not null,
    channels text[] not null default '{}',
    state text not null default 'PENDING' check (state in ('PENDING', 'SENT', 'FAILED', 'MUTED')),
    sent_at timestamptz,
    error text,
    unique (class, window_start)
);

-- rights -----------------------------------------------------------------------------------------------------------------------------

grant usage on schema back_office, trade, position to pks_edge, pks_reader;
grant select, insert, update on all tables in schema back_office, trade, position to pks_edge;
revoke update on back_office.journal_copy, trade.lifecycle_event, trade.fee from pks_edge;
grant delete on back_office.position_snapshot to pks_edge;
grant select on all tables in schema trade, position to pks_reader;
grant select on back_office.edge_cursor, back_office.currency, back_office.entity, back_office.book, back_office.account, back_office.instrument,
    back_office.source, back_office.class_method, back_office.routing_rule, back_office.position_snapshot, back_office.dead_letter,
    back_office.alert to pks_reader;
