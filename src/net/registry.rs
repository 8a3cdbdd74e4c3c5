//! Which connections are open, for all shards.
//!
//! A shard asks once for each connection and keeps the [`Writer`]; what it was given makes it one of
//! the shards that are told when the connection ends. So the lock is taken when a connection is
//! opened, found or lost, never for a message.

use foldhash::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};

use super::id::ConnectionId;
use super::writer::Writer;

/// The open connections of one protocol. `K` is what a connection is reused by.
#[derive(Debug)]
pub struct Registry<K> {
    tables: Mutex<Tables<K>>,
}

#[derive(Debug)]
struct Tables<K> {
    connections: HashMap<ConnectionId, Connection<K>>,
    by_key: HashMap<K, ConnectionId>,
}

#[derive(Debug)]
struct Connection<K> {
    key: K,
    writer: Writer,
    interested: Interested,
}

/// The shards that must hear of a connection's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interested {
    /// Those that asked for it by its identifier.
    pub by_id: Vec<u16>,
    /// Those that asked for it by its key.
    pub by_key: Vec<u16>,
}

/// How [`Registry::find_or_open`] ended.
#[derive(Debug)]
pub enum Found {
    /// A connection that is open or being opened.
    Open(Writer),
    /// The one just given, which the caller must open now.
    New(Writer),
}

impl<K> Default for Registry<K> {
    fn default() -> Self {
        Self {
            tables: Mutex::new(Tables {
                connections: HashMap::default(),
                by_key: HashMap::default(),
            }),
        }
    }
}

impl<K: Copy + Eq + Hash> Registry<K> {
    /// Adds an accepted connection. It is reused for its key unless another one is already.
    pub fn add(&self, key: K, writer: Writer) {
        let mut tables = self.lock();
        tables.by_key.entry(key).or_insert(writer.id());
        tables.insert(key, writer);
    }

    /// The connection `id`; `shard` will hear of its end.
    pub fn find(&self, id: ConnectionId, shard: u16) -> Option<Writer> {
        let mut tables = self.lock();
        let connection = tables.connections.get_mut(&id)?;
        note(&mut connection.interested.by_id, shard);
        Some(connection.writer.clone())
    }

    /// What the connection `id` is reused by.
    pub fn key_of(&self, id: ConnectionId) -> Option<K> {
        let tables = self.lock();
        let connection = tables.connections.get(&id)?;
        Some(connection.key)
    }

    /// A connection for `key`, or else the one that `open` makes, if it does; `shard` will hear of
    /// its end.
    pub fn find_or_open(
        &self,
        key: K,
        shard: u16,
        open: impl FnOnce() -> Option<Writer>,
    ) -> Option<Found> {
        let mut tables = self.lock();
        let known = tables.by_key.get(&key).copied();
        if let Some(connection) = known.and_then(|id| tables.connections.get_mut(&id)) {
            note(&mut connection.interested.by_key, shard);
            return Some(Found::Open(connection.writer.clone()));
        }
        let writer = open()?;
        tables.by_key.insert(key, writer.id());
        let connection = tables.insert(key, writer.clone());
        note(&mut connection.interested.by_key, shard);
        Some(Found::New(writer))
    }

    /// `shard` needs the connection no more. When no shard does, it is closed once everything queued
    /// is written, and not found for its key any longer.
    pub fn release(&self, id: ConnectionId, shard: u16) {
        let mut tables = self.lock();
        let Some(connection) = tables.connections.get_mut(&id) else {
            return;
        };
        let interested = &mut connection.interested;
        interested.by_id.retain(|other| *other != shard);
        interested.by_key.retain(|other| *other != shard);
        if interested.by_id.is_empty() && interested.by_key.is_empty() {
            connection.writer.close();
            let key = connection.key;
            tables.unlist(key, id);
        }
    }

    /// Forgets a connection that ended; tells who must hear of it.
    pub fn remove(&self, id: ConnectionId) -> Interested {
        let mut tables = self.lock();
        let Some(connection) = tables.connections.remove(&id) else {
            return Interested::default();
        };
        tables.unlist(connection.key, id);
        connection.interested
    }

    /// Closes every connection that `shard` owns once what is queued for it is written; returns how
    /// many there are.
    pub fn close_all(&self, shard: u16) -> usize {
        let tables = self.lock();
        let own = tables.connections.values();
        let own = own.filter(|connection| connection.writer.id().shard() == shard);
        own.map(|connection| connection.writer.close()).count()
    }

    fn lock(&self) -> MutexGuard<'_, Tables<K>> {
        let tables = self.tables.lock();
        tables.expect("no code that holds this lock panics")
    }
}

impl<K: Copy + Eq + Hash> Tables<K> {
    fn insert(&mut self, key: K, writer: Writer) -> &mut Connection<K> {
        let id = writer.id();
        self.connections.entry(id).or_insert_with(|| Connection {
            key,
            writer,
            interested: Interested::default(),
        })
    }

    fn unlist(&mut self, key: K, id: ConnectionId) {
        if self.by_key.get(&key) == Some(&id) {
            self.by_key.remove(&key);
        }
    }
}

fn note(shards: &mut Vec<u16>, shard: u16) {
    if !shards.contains(&shard) {
        shards.push(shard);
    }
}

#[cfg(test)]
mod tests {
    use super::super::writer::writer;
    use super::*;
    use crate::limits::memory::Account;

    fn connection(serial: u64) -> Writer {
        writer(ConnectionId::new(1, serial), 1000, &Account::detached()).0
    }

    #[test]
    fn a_second_request_for_the_same_key_finds_the_connection_that_is_being_opened() {
        let registry = Registry::default();
        let opened = registry.find_or_open("peer", 0, || Some(connection(1)));
        assert!(matches!(opened, Some(Found::New(_))));
        let found = registry.find_or_open("peer", 2, || unreachable!("it is known"));
        assert!(matches!(found, Some(Found::Open(writer)) if writer.id().shard() == 1));
        let interested = registry.remove(ConnectionId::new(1, 1));
        assert_eq!(interested.by_key, [0, 2]);
        assert!(interested.by_id.is_empty());
        assert!(registry.find_or_open("peer", 0, || None).is_none());
    }

    #[test]
    fn every_shard_that_asked_hears_of_the_end_once() {
        let registry = Registry::default();
        registry.add("peer", connection(1));
        let id = ConnectionId::new(1, 1);
        for shard in [3, 0, 3] {
            assert!(registry.find(id, shard).is_some());
        }
        assert_eq!(registry.remove(id).by_id, [3, 0]);
        assert!(registry.find(id, 0).is_none());
        assert_eq!(registry.remove(id), Interested::default());
    }

    #[test]
    fn a_connection_is_closed_when_the_last_shard_that_uses_it_lets_it_go() {
        let registry = Registry::default();
        let (writer, mut queue) = writer(ConnectionId::new(1, 1), 1000, &Account::detached());
        let id = writer.id();
        registry.find_or_open("peer", 0, || Some(writer));
        registry.find(id, 2);
        registry.release(id, 0);
        let found = registry.find_or_open("peer", 3, || None);
        assert!(matches!(found, Some(Found::Open(_))));
        assert!(!queue.is_closing());
        registry.release(id, 2);
        registry.release(id, 3);
        assert!(queue.is_closing());
        assert!(registry.find_or_open("peer", 3, || None).is_none());
    }

    #[test]
    fn the_end_of_a_second_connection_leaves_the_first_one_reusable() {
        let registry = Registry::default();
        registry.add("peer", connection(1));
        registry.add("peer", connection(2));
        registry.remove(ConnectionId::new(1, 2));
        let found = registry.find_or_open("peer", 0, || None);
        assert!(matches!(found, Some(Found::Open(_))));
        assert_eq!(registry.close_all(1), 1);
        assert_eq!(registry.close_all(0), 0);
    }
}
