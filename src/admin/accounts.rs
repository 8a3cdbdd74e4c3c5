//! Accounts: those of the configuration file to look at, those of the store to make, change and delete.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::account_book::{AccountBook, Found};
use super::extract::{Asked, Body, Named};
use super::messages::{cancel_one, page_of};
use super::problem::Problem;
use super::state::Admin;
use super::times::written;
use super::users::Page;
use crate::clock::{self, UnixMillis};
use crate::config::{Authentication, SettingsOverrides, check_names, check_settings};
use crate::identity::Identity;
use crate::participating::operator::{Answer, Question};
use crate::registrar::{Directory, StoredAccount};

/// A password is not longer than this, in octets.
const LONGEST_PASSWORD: usize = 1024;
/// How often, and after which pause, what waits for a deleted account is looked for.
const CANCEL_ROUNDS: u32 = 600;
const CANCEL_PAUSE: Duration = Duration::from_millis(100);

/// A page of accounts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Accounts {
    accounts: Vec<Account>,
    /// `after` of the next page; missing at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// An account. Passwords and hashes are never shown.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Account {
    /// The user part of the address.
    user: String,
    /// `sip:USER@DOMAIN`.
    address: String,
    /// A telephone number that is an address of the same user.
    #[serde(skip_serializing_if = "Option::is_none")]
    tel: Option<String>,
    /// `file`: of the configuration file, cannot be changed here. `store`: made here.
    source: &'static str,
    /// Whether the user can prove to be it: there is a password, for the realm of today.
    can_authenticate: bool,
    /// What this user wants otherwise than `[users]` says.
    settings: SettingsOverrides,
    /// RFC 3339; missing for accounts of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    /// RFC 3339; missing for accounts of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_at: Option<String>,
}

/// A new account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAccount {
    /// The user part of the address, unescaped.
    user: String,
    /// Kept as hashes only. Needed where registrar.authentication is "digest".
    password: Option<String>,
    /// A telephone number in the global form that is an address of the same user.
    tel: Option<String>,
    /// What this user wants otherwise than `[users]` says.
    #[serde(default)]
    settings: SettingsOverrides,
}

/// What an account shall be from here on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Replacement {
    /// Another password; without, the present one stays.
    password: Option<String>,
    /// A telephone number; without, the account has none.
    tel: Option<String>,
    /// What this user wants otherwise than `[users]` says.
    #[serde(default)]
    settings: SettingsOverrides,
}

fn view(admin: &Admin, found: Found) -> Account {
    let address = |user: &str| format!("sip:{user}@{}", admin.config.domain);
    match found {
        Found::File(account) => Account {
            address: address(&account.user),
            can_authenticate: account.password.is_some() || account.ha1.is_some(),
            user: account.user,
            tel: account.tel,
            source: "file",
            settings: account.settings,
            created_at: None,
            changed_at: None,
        },
        Found::Stored(account) => Account {
            address: address(&account.user),
            can_authenticate: account.can_prove(admin.config.realm()),
            user: account.user,
            tel: account.tel,
            source: "store",
            settings: account.settings,
            created_at: Some(written(UnixMillis(account.created_at))),
            changed_at: Some(written(UnixMillis(account.changed_at))),
        },
    }
}

/// The user part that a path names.
fn user_of(admin: &Admin, user: &str) -> Result<String, Problem> {
    Ok(admin.identity(user)?.user().to_owned())
}

fn unknown(user: &str) -> Problem {
    Problem::not_found(format!("there is no account \"{user}\""))
}

/// The account of the store with this name.
fn stored(book: &AccountBook, user: &str) -> Result<StoredAccount, Problem> {
    match book.find(user) {
        Some(Found::Stored(account)) => Ok(account),
        Some(Found::File(_)) => Err(Problem::conflict(
            "of-the-file",
            "The account is in the configuration file",
            format!("\"{user}\" stands in the configuration file; change it there and restart"),
        )),
        None => Err(unknown(user)),
    }
}

/// All accounts, in order of their users.
#[utoipa::path(get, path = "/admin/v1/accounts", tag = "accounts", params(Page), responses(
    (status = 200, description = "A page of accounts", body = Accounts),
    (status = 400, description = "A parameter is wrong", body = Problem),
))]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Asked(page): Asked<Page>,
) -> Result<Json<Accounts>, Problem> {
    let limit = page.limit()?;
    let book = &admin.parts()?.accounts;
    let mut found = book.page(page.after.as_deref(), limit + 1);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more);
    let next = next.map(|found| found.user().to_owned());
    let accounts = found.into_iter().map(|found| view(&admin, found));
    Ok(Json(Accounts {
        accounts: accounts.collect(),
        next,
    }))
}

/// One account.
#[utoipa::path(get, path = "/admin/v1/accounts/{user}", tag = "accounts",
    params(("user" = String, Path, description = "`bob` or `bob@im.test`")), responses(
    (status = 200, description = "The account", body = Account),
    (status = 404, description = "There is no such account", body = Problem),
))]
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Named(user): Named<String>,
) -> Result<Json<Account>, Problem> {
    let user = user_of(&admin, &user)?;
    let found = admin.parts()?.accounts.find(&user);
    Ok(Json(view(&admin, found.ok_or_else(|| unknown(&user))?)))
}

/// Makes an account. It is durable, and every shard knows it, before the answer leaves.
#[utoipa::path(post, path = "/admin/v1/accounts", tag = "accounts", request_body = NewAccount,
    responses(
    (status = 201, description = "The account", body = Account),
    (status = 400, description = "A field is wrong", body = Problem),
    (status = 409, description = "The user or the number has an account", body = Problem),
    (status = 503, description = "The store refuses", body = Problem),
))]
pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    Body(new): Body<NewAccount>,
) -> Result<impl IntoResponse + use<>, Problem> {
    let config = &admin.config;
    let book = &admin.parts()?.accounts;
    let _changing = book.changing.lock().await;
    let taken = |detail: String| Problem::conflict("taken", "There is one already", detail);
    let user = new.user.clone();
    check_names(&user, None).map_err(|(field, detail)| Problem::invalid(field, detail))?;
    if book.find(&user).is_some() {
        return Err(taken(format!("\"{user}\" has an account")));
    }
    if book.is_deleting(&user) {
        let detail = format!("the messages of the deleted account \"{user}\" are being cancelled");
        return Err(Problem::conflict("deleting", "It is being deleted", detail));
    }
    if book.stored() >= config.registrar.max_users as usize {
        return Err(taken("there are registrar.max_users accounts".to_owned()));
    }
    let digest = config.registrar.authentication == Authentication::Digest;
    if digest && new.password.is_none() {
        let detail = "missing; registrar.authentication = \"digest\" needs one";
        return Err(Problem::invalid("password", detail));
    }
    let mut account = StoredAccount::new(&user, &config.domain, None, config.realm());
    account.created_at = clock::now().wall.0;
    let wanted = Replacement {
        password: new.password,
        tel: new.tel,
        settings: new.settings,
    };
    let account = apply(&admin, account, wanted)?;
    let account = publish(&admin, account).await?;
    let location = format!("/admin/v1/accounts/{user}");
    let account = Json(view(&admin, Found::Stored(account)));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], account))
}

/// Replaces an account's telephone number and settings, and its password if one is given.
#[utoipa::path(put, path = "/admin/v1/accounts/{user}", tag = "accounts",
    params(("user" = String, Path, description = "`bob` or `bob@im.test`")),
    request_body = Replacement, responses(
    (status = 200, description = "The account", body = Account),
    (status = 400, description = "A field is wrong", body = Problem),
    (status = 404, description = "There is no such account", body = Problem),
    (status = 409, description = "It is in the configuration file, or the number is taken", body = Problem),
    (status = 503, description = "The store refuses", body = Problem),
))]
pub(super) async fn replace(
    State(admin): State<Arc<Admin>>,
    Named(user): Named<String>,
    Body(wanted): Body<Replacement>,
) -> Result<Json<Account>, Problem> {
    let user = user_of(&admin, &user)?;
    let book = &admin.parts()?.accounts;
    let _changing = book.changing.lock().await;
    let account = apply(&admin, stored(book, &user)?, wanted)?;
    let account = publish(&admin, account).await?;
    Ok(Json(view(&admin, Found::Stored(account))))
}

/// Changes what the patch names (RFC 7396, JSON merge patch): `null` takes a value away.
#[utoipa::path(patch, path = "/admin/v1/accounts/{user}", tag = "accounts",
    params(("user" = String, Path, description = "`bob` or `bob@im.test`")),
    request_body(content = Replacement, content_type = "application/merge-patch+json"), responses(
    (status = 200, description = "The account", body = Account),
    (status = 400, description = "A field is wrong", body = Problem),
    (status = 404, description = "There is no such account", body = Problem),
    (status = 409, description = "It is in the configuration file, or the number is taken", body = Problem),
    (status = 503, description = "The store refuses", body = Problem),
))]
pub(super) async fn change(
    State(admin): State<Arc<Admin>>,
    Named(user): Named<String>,
    Body(patch): Body<Value>,
) -> Result<Json<Account>, Problem> {
    let user = user_of(&admin, &user)?;
    let book = &admin.parts()?.accounts;
    let _changing = book.changing.lock().await;
    let account = stored(book, &user)?;
    if !patch.is_object() {
        return Err(Problem::invalid("", "allowed: a JSON object"));
    }
    let mut wanted = serde_json::json!({ "tel": account.tel, "settings": account.settings });
    merge(&mut wanted, patch);
    let wanted = serde_path_to_error::deserialize(wanted).map_err(|error| {
        let field = error.path().to_string();
        Problem::invalid(&field, error.into_inner().to_string())
    })?;
    let account = apply(&admin, account, wanted)?;
    let account = publish(&admin, account).await?;
    Ok(Json(view(&admin, Found::Stored(account))))
}

/// Deletes an account with its bindings. Its waiting messages are cancelled; authors who asked hear
/// `failed`.
#[utoipa::path(delete, path = "/admin/v1/accounts/{user}", tag = "accounts",
    params(("user" = String, Path, description = "`bob` or `bob@im.test`")), responses(
    (status = 204, description = "It is gone; its messages are being cancelled"),
    (status = 404, description = "There is no such account", body = Problem),
    (status = 409, description = "It is in the configuration file", body = Problem),
    (status = 503, description = "The store refuses", body = Problem),
))]
pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    Named(user): Named<String>,
) -> Result<StatusCode, Problem> {
    let user = admin.identity(&user)?;
    let book = &admin.parts()?.accounts;
    let changing = book.changing.lock().await;
    stored(book, user.user())?;
    // If the server dies from here on, the next start goes on with the cancelling.
    let key = AccountBook::deleting_key(user.user());
    let value = Bytes::new();
    change_document(&admin, &user, Question::PutDocument { key, value }).await?;
    let key = StoredAccount::key_of(user.user());
    change_document(&admin, &user, Question::RemoveDocument(key)).await?;
    book.begin_deleting(user.user());
    tell_shards(&admin, Question::Directory(book.remove(&user))).await?;
    let unbind = Question::Unbind {
        user: user.clone(),
        key: None,
    };
    admin.ask_user(&user, unbind).await?;
    drop(changing);
    tracing::info!(%user, "an account was deleted");
    tokio::spawn(cancel_all(Arc::clone(&admin), user));
    Ok(StatusCode::NO_CONTENT)
}

/// Cancels what waits for a user whose account was deleted, until nothing waits any more: authors may have
/// to be told first, and what is on its way to a device may yet arrive.
async fn cancel_all(admin: Arc<Admin>, user: Identity) {
    for _ in 0..CANCEL_ROUNDS {
        match cancel_round(&admin, &user).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(problem) => tracing::debug!(%user, ?problem, "cancelling goes on"),
        }
        tokio::time::sleep(CANCEL_PAUSE).await;
    }
    tracing::warn!(%user, "messages of a deleted account remain until the next start");
}

/// Cancels what waits; `true` once nothing did, and the account is forgotten for good.
async fn cancel_round(admin: &Admin, user: &Identity) -> Result<bool, Problem> {
    let mut after = None;
    loop {
        let (page, more) = page_of(admin, user, after, 256).await?;
        if page.is_empty() && after.is_none() {
            let key = AccountBook::deleting_key(user.user());
            change_document(admin, user, Question::RemoveDocument(key)).await?;
            admin.parts()?.accounts.end_deleting(user.user());
            return Ok(true);
        }
        after = page.last().map(|view| view.held.seq);
        for view in page {
            if let Err(problem) = cancel_one(admin, user, view.held.seq).await {
                tracing::debug!(%user, ?problem, "not cancelled yet");
            }
        }
        if !more {
            return Ok(false);
        }
    }
}

/// Goes on with what was being cancelled when the server ended.
pub(super) async fn resume_deleting(admin: Arc<Admin>) {
    admin.ready.notified().await;
    let Ok(parts) = admin.parts() else { return };
    for user in parts.accounts.deleting() {
        let user = Identity::new(&user, &admin.config.domain);
        cancel_all(Arc::clone(&admin), user).await;
    }
}

/// Checks what is wanted and makes the account of it.
fn apply(
    admin: &Admin,
    mut account: StoredAccount,
    wanted: Replacement,
) -> Result<StoredAccount, Problem> {
    let config = &admin.config;
    let invalid = |(field, detail): (&'static str, String)| Problem::invalid(field, detail);
    check_names(&account.user, wanted.tel.as_deref()).map_err(invalid)?;
    check_settings(&wanted.settings, "settings")
        .map_err(|(field, detail)| Problem::invalid(&field, detail))?;
    if let Some(tel) = &wanted.tel {
        let own = Identity::new(&account.user, &config.domain);
        let directory = admin.parts()?.accounts.directory();
        if let Some(other) = directory
            .owner_of_number(tel)
            .filter(|other| **other != own)
        {
            let detail = format!("\"{tel}\" belongs to {other}");
            return Err(Problem::conflict("taken", "There is one already", detail));
        }
    }
    if let Some(password) = &wanted.password {
        let allowed = (1..=LONGEST_PASSWORD).contains(&password.len());
        if !allowed || password.chars().any(char::is_control) {
            let detail = "allowed: 1 to 1024 octets without control characters";
            return Err(Problem::invalid("password", detail));
        }
        account.set_password(password, &config.domain, config.realm());
    }
    account.tel = wanted.tel;
    account.settings = wanted.settings;
    account.changed_at = clock::now().wall.0;
    Ok(account)
}

/// Makes an account durable, then known to every shard.
async fn publish(admin: &Admin, account: StoredAccount) -> Result<StoredAccount, Problem> {
    let user = Identity::new(&account.user, &admin.config.domain);
    let value = account.encode();
    let value = value.map_err(|error| Problem::invalid("", error.to_string()))?;
    let put = Question::PutDocument {
        key: StoredAccount::key_of(&account.user),
        value: value.into(),
    };
    change_document(admin, &user, put).await?;
    let accounts = &admin.parts()?.accounts;
    let before = accounts.directory();
    let directory = accounts.put(account.clone());
    let may_receive = |directory: &Directory| directory.settings(&user).settings.may_receive;
    let is_switched = may_receive(&before) != may_receive(&directory);
    tell_shards(admin, Question::Directory(directory)).await?;
    if is_switched {
        admin
            .ask_user(&user, Question::Reception(user.clone()))
            .await?;
    }
    Ok(account)
}

pub(super) async fn change_document(
    admin: &Admin,
    user: &Identity,
    change: Question,
) -> Result<(), Problem> {
    match admin.ask_user(user, change).await? {
        Answer::Done => Ok(()),
        answer => Err(Problem::unexpected(&answer)),
    }
}

pub(super) async fn tell_shards(admin: &Admin, news: Question) -> Result<(), Problem> {
    admin.ask_all(&news).await.map(drop)
}

/// RFC 7396 §2.
pub(super) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_merge_patch_changes_what_it_names() {
        let mut account = json!({"tel": "+1", "settings": {"delivery": "pull", "rules": [1]}});
        merge(
            &mut account,
            json!({"tel": null, "settings": {"rules": [], "copy_to": "every"}}),
        );
        let expected = json!({"settings": {"delivery": "pull", "rules": [], "copy_to": "every"}});
        assert_eq!(account, expected);
    }
}
