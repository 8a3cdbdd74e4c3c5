//! The store from outside: what a shard asks, what it hears, what a restart finds.

#[path = "store/desk.rs"]
mod desk;

use desk::{Desk, body, message, name};
use restante::store::request::{Body, Settlement};

#[test]
fn what_was_stored_is_there_after_a_restart_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    for number in 0..50 {
        desk.store(message("bob", number), Body::Inline(body(number)));
    }
    let all = desk.load("bob");
    assert_eq!(all.len(), 50);
    desk.settle("bob", all[3].seq, Settlement::Delivered);
    desk.close();

    let mut desk = Desk::open(folder.path());
    assert_eq!(desk.recovered.messages, 49);
    let numbers: Vec<u64> = (0..50).filter(|number| *number != 3).collect();
    assert_eq!(desk.delivered("bob"), numbers);
    assert_eq!(desk.load("bob")[0].conversation.author, name("alice"));
    desk.close();
}
