-- A dead letter may be fixed beside its original bytes, and where its repeat stands is known.

alter table back_office.dead_letter add column fixed bytea, add column replay_sequence bigint;
