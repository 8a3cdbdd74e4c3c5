//! Addresses that are banned, users that are locked out, and their pardon.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::Named;
use super::problem::Problem;
use super::state::Admin;
use super::times::written;
use crate::clock::{self, Instant, Now};

/// Who is kept out at the moment.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Bans {
    bans: Vec<Ban>,
    lockouts: Vec<Lockout>,
}

/// An address that did harm.
#[derive(Debug, Serialize, ToSchema)]
struct Ban {
    /// An IPv4 address, or the /64 of an IPv6 one.
    address: String,
    /// `udp` or `tcp`: a ban of datagrams, whose sender may be forged, is none of connections.
    transport: &'static str,
    /// RFC 3339.
    until: String,
    /// How often it was banned, this time included.
    times: u32,
}

/// A user who failed to log in too often.
#[derive(Debug, Serialize, ToSchema)]
struct Lockout {
    /// The name that was tried, whether somebody has it or not.
    user: String,
    /// Where the last try came from; elsewhere the user is not locked out.
    address: String,
    /// RFC 3339.
    until: String,
    /// How often he was locked out, this time included.
    times: u32,
}

fn time(until: Instant, now: Now) -> String {
    written(now.wall.plus(until.since(now.instant)))
}

/// Who is kept out at the moment.
#[utoipa::path(get, path = "/admin/v1/bans", tag = "bans", responses(
    (status = 200, description = "Banned addresses and users locked out", body = Bans),
))]
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Result<Json<Bans>, Problem> {
    let (parts, now) = (admin.parts()?, clock::now());
    let bans = parts.sources.bans(now.instant);
    let lockouts = parts.logins.lockouts(now.instant);
    Ok(Json(Bans {
        bans: (bans.into_iter())
            .map(|ban| Ban {
                address: ban.source.to_string(),
                transport: ban.way.name(),
                until: time(ban.until, now),
                times: ban.times,
            })
            .collect(),
        lockouts: (lockouts.into_iter())
            .map(|lockout| Lockout {
                user: lockout.user.into(),
                address: lockout.source.to_string(),
                until: time(lockout.until, now),
                times: lockout.times,
            })
            .collect(),
    }))
}

/// Takes the bans of an address back.
#[utoipa::path(delete, path = "/admin/v1/bans/{address}", tag = "bans",
    params(("address" = String, Path, description = "As the list names it, or any address of the network")),
    responses(
    (status = 204, description = "It is heard again"),
    (status = 404, description = "It is not banned", body = Problem),
))]
pub(super) async fn pardon(
    State(admin): State<Arc<Admin>>,
    Named(address): Named<String>,
) -> Result<StatusCode, Problem> {
    let network = address.split('/').next().unwrap_or_default();
    let Ok(source) = network.parse::<IpAddr>() else {
        return Err(Problem::not_found(format!("{address} is not an address")));
    };
    match admin.parts()?.sources.pardon(source, clock::now().instant) {
        0 => Err(Problem::not_found(format!("{address} is not banned"))),
        _ => Ok(told(&address)),
    }
}

/// Lets a user in again wherever he was locked out.
#[utoipa::path(delete, path = "/admin/v1/lockouts/{user}", tag = "bans",
    params(("user" = String, Path, description = "As the list names it")), responses(
    (status = 204, description = "He may try again"),
    (status = 404, description = "He is not locked out", body = Problem),
))]
pub(super) async fn unlock(
    State(admin): State<Arc<Admin>>,
    Named(user): Named<String>,
) -> Result<StatusCode, Problem> {
    let now = clock::now().instant;
    let logins = &admin.parts()?.logins;
    let identity = admin.identity(&user).map(|user| user.to_string());
    let known = identity.map_or(0, |user| logins.pardon(&user, now));
    match known + logins.pardon(&user, now) {
        0 => Err(Problem::not_found(format!("{user} is not locked out"))),
        _ => Ok(told(&user)),
    }
}

fn told(whom: &str) -> StatusCode {
    tracing::info!(?whom, "pardoned, by the operator");
    StatusCode::NO_CONTENT
}
