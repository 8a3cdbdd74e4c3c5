//! What is where. Routes and their description are declared together, so that neither drifts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use utoipa::openapi::OpenApi as Description;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::Problem;
use super::state::Admin;
use super::{
    accounts, backup, bindings, export, exposition, health, messages, server, sessions, traffic,
    users,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Restante admin",
        description = "The operator's interface. Everything under /admin/v1 wants the bearer token; \
                       /healthz, /readyz and /metrics do not. Errors are RFC 9457 problem details."
    ),
    modifiers(&BearerToken),
    security(("token" = []))
)]
struct Api;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, description: &mut Description) {
        let components = description.components.get_or_insert_default();
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("token", scheme);
    }
}

/// Everything that wants the token.
fn guarded() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new()
        .routes(routes!(users::list))
        .routes(routes!(bindings::list, bindings::remove_all))
        .routes(routes!(bindings::remove))
        .routes(routes!(messages::list))
        .routes(routes!(messages::show, messages::redate, messages::cancel))
        .routes(routes!(messages::body))
        .routes(routes!(messages::retry))
        .routes(routes!(export::one))
        .routes(routes!(export::all))
        .routes(routes!(backup::backup))
        .routes(routes!(backup::export))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::end))
        .routes(routes!(accounts::list, accounts::create))
        .routes(routes!(
            accounts::show,
            accounts::change,
            accounts::replace,
            accounts::delete
        ))
        .routes(routes!(traffic::show, traffic::change))
        .routes(routes!(traffic::sent))
        .routes(routes!(server::show))
        .routes(routes!(server::drain))
        .routes(routes!(openapi))
}

/// Everything that does not.
fn open() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(exposition::metrics))
}

/// The description of the whole interface (OpenAPI 3.1).
pub fn description() -> Description {
    let (_, description) = open().merge(guarded()).split_for_parts();
    description
}

/// Method and path of every operation, in order.
pub fn paths() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (path, item) in description().paths.paths {
        let methods = [
            ("GET", &item.get),
            ("POST", &item.post),
            ("PUT", &item.put),
            ("PATCH", &item.patch),
            ("DELETE", &item.delete),
        ];
        let there = methods
            .into_iter()
            .filter(|(_, operation)| operation.is_some());
        all.extend(there.map(|(method, _)| (method.to_owned(), path.clone())));
    }
    all
}

/// Every route with its bounds.
pub(super) fn router(admin: Arc<Admin>) -> Router {
    let (open, _) = open().split_for_parts();
    let (guarded, _) = guarded().split_for_parts();
    let body = admin.config.admin.max_body_size.as_usize();
    let guarded = guarded.route_layer(from_fn_with_state(Arc::clone(&admin), authorise));
    open.merge(guarded)
        .fallback(async || Problem::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "The method is not allowed here",
                "the Allow header field names those that are",
            )
        })
        .layer(DefaultBodyLimit::max(body))
        .layer(from_fn_with_state(Arc::clone(&admin), bounded))
        .with_state(admin)
}

/// Lets nobody in without the token.
async fn authorise(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let token = match admin.parts() {
        Ok(parts) => &parts.token,
        Err(problem) => return problem.into_response(),
    };
    let given = request.headers().get(header::AUTHORIZATION);
    let given = given.and_then(|value| value.to_str().ok());
    if given.is_some_and(|given| token.is_in(given)) {
        return next.run(request).await;
    }
    let detail = "send Authorization: Bearer TOKEN; the token is in admin.token in data_dir unless \
                  the configuration says otherwise";
    let status = StatusCode::UNAUTHORIZED;
    Problem::new(
        status,
        "unauthorised",
        "The bearer token is missing or wrong",
        detail,
    )
    .into_response()
}

/// Counts requests and ends those that take too long.
async fn bounded(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    admin.requests.fetch_add(1, Ordering::Relaxed);
    let limit = admin.config.admin.request_timeout.duration();
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            "The request took too long",
            "see admin.request_timeout",
        )
        .into_response(),
    }
}

/// This description.
#[utoipa::path(get, path = "/admin/v1/openapi.json", tag = "server", responses(
    (status = 200, description = "The description of this interface (OpenAPI 3.1)"),
))]
async fn openapi() -> Json<Description> {
    Json(description())
}
