//! `login` and `logout`: credentials of a registry, tried and kept, and forgotten.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::Entry;
use crate::context::Context;
use crate::credentials::{AuthConfig, Credentials, server};
use crate::error::{Error, ExitStatus};
use crate::{errln, out, outln, terminal};

/// The commands at the root.
pub const ROOT: &[Entry] = &[
    entry!("login", [], Common, "Authenticate to a registry", "[OPTIONS] [SERVER]", LoginArgs, login),
    entry!("logout", [], Common, "Log out from a registry", "[SERVER]", LogoutArgs, logout),
];

/// More than any token has. What comes on standard input without an end is not kept in memory.
const LONGEST_SECRET: u64 = 1 << 20;

/// `login`.
#[derive(Args)]
#[command(after_help = "Examples:
  hull login                                                      asks for Docker Hub's user and password
  hull login -u me --password-stdin r.example:5000 <token.txt")]
pub struct LoginArgs {
    /// Password or Personal Access Token (PAT)
    #[arg(short, long, value_name = "string")]
    password: Option<String>,
    /// Take the Password or Personal Access Token (PAT) from stdin
    #[arg(long)]
    password_stdin: bool,
    /// Username
    #[arg(short, long, value_name = "string")]
    username: Option<String>,
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// `logout`.
#[derive(Args, Debug)]
pub struct LogoutArgs {
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// `hull login`.
pub async fn login(args: LoginArgs, context: &Context) -> Result<ExitStatus, Error> {
    let username = args.username.as_deref().map_or("", str::trim).to_owned();
    let password = given_password(&args, &username)?;
    let key = server::key(args.server.as_deref());
    let credentials = Credentials::of(&context.config_dir);
    let mut default_user = String::new();
    if username.is_empty() && password.is_empty() {
        match credentials.get(key) {
            Ok(Some(kept)) if !kept.username.is_empty() && !kept.password.is_empty() => {
                if with_kept(context, &credentials, &kept).await? {
                    return Ok(ExitStatus::SUCCESS);
                }
                default_user = kept.username;
            }
            Ok(kept) => default_user = kept.map(|kept| kept.username).unwrap_or_default(),
            Err(error) => errln!("WARNING: no credentials for {key}: {error}"),
        }
    }
    if (username.is_empty() || password.is_empty()) && !io::stdin().is_terminal() {
        return Err(Error::new("Error: Cannot perform an interactive login from a non TTY device"));
    }
    let auth = asked(key, username, password, &default_user).await?;
    try_and_keep(context, &credentials, auth).await?;
    Ok(ExitStatus::SUCCESS)
}

/// The password that the command line gives or points to; empty where neither.
fn given_password(args: &LoginArgs, username: &str) -> Result<String, Error> {
    if let Some(password) = &args.password {
        if args.password_stdin {
            return Err(Error::new(
                "conflicting options: cannot specify both --password and --password-stdin",
            ));
        }
        errln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        return Ok(password.clone());
    }
    if !args.password_stdin {
        return Ok(String::new());
    }
    if username.is_empty() {
        return Err(Error::new("the --password-stdin option requires --username to be set"));
    }
    let mut text = String::new();
    io::stdin().lock().take(LONGEST_SECRET).read_to_string(&mut text)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Error::new("password is empty"));
    }
    Ok(text.to_owned())
}

/// Whether the registry still takes what is kept. Only a daemon that is not there is an error: other credentials may do.
async fn with_kept(context: &Context, credentials: &Credentials, kept: &AuthConfig) -> Result<bool, Error> {
    outln!("Authenticating with existing credentials... [Username: {}]", kept.username)?;
    outln!("\nInfo → To login with a different account, run 'hull logout' followed by 'hull login'\n\n")?;
    match try_and_keep(context, credentials, kept.clone()).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_connection() => Err(error),
        Err(error) if error.http_status() == Some(401) => {
            errln!("Stored credentials invalid or expired");
            Ok(false)
        }
        Err(error) => {
            errln!("Login did not succeed, error: {error}");
            Ok(false)
        }
    }
}

/// Has the daemon try them at the registry, and keeps them, or the token that the registry gave for the password.
async fn try_and_keep(context: &Context, credentials: &Credentials, auth: AuthConfig) -> Result<(), Error> {
    let mut auth = auth;
    let answer: Value = context.client.post_json("/auth", &json!(auth)).await?;
    if let Some(token) = answer["IdentityToken"].as_str().filter(|token| !token.is_empty()) {
        auth.password.clear();
        auth.identity_token = token.to_owned();
    }
    credentials.store(&auth).map_err(|error| error.context("Error saving credentials"))?;
    match answer["Status"].as_str().filter(|status| !status.is_empty()) {
        Some(status) => outln!("{status}"),
        None => Ok(()),
    }
}

/// Asks on the terminal for what is missing.
async fn asked(
    key: &str,
    username: String,
    password: String,
    default_user: &str,
) -> Result<AuthConfig, Error> {
    let mut auth = AuthConfig { username, password, server_address: key.to_owned(), ..AuthConfig::default() };
    if auth.username.is_empty() {
        if key == server::INDEX {
            outln!(
                "Log in with your Docker ID or email address to push and pull images from Docker Hub. \
                 If you don't have a Docker ID, head over to https://hub.docker.com/ to create one."
            )?;
        }
        match default_user {
            "" => out!("Username: ")?,
            user => out!("Username ({user}): ")?,
        }
        let typed = line().await?;
        auth.username = if typed.trim().is_empty() { default_user } else { typed.trim() }.to_owned();
        if auth.username.is_empty() {
            return Err(Error::new("Error: Non-null Username Required"));
        }
    }
    if auth.password.is_empty() {
        let silent = terminal::Silent::enter()?;
        out!("Password: ")?;
        let typed = line().await;
        drop(silent);
        outln!()?;
        auth.password = typed?.trim().to_owned();
        if auth.password.is_empty() {
            return Err(Error::new("Error: Password Required"));
        }
    }
    Ok(auth)
}

/// A line that is typed. A signal that would end the process ends the wait, so that the terminal is put in order.
async fn line() -> Result<String, Error> {
    io::stdout().flush()?;
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().take(LONGEST_SECRET).read_line(&mut line).map(|_| line)
    });
    let (mut interrupt, mut end) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        read = reading => Ok(read.map_err(|e| Error::new(e.to_string()))??),
        _ = interrupt.recv() => Err(Error::silent(130)),
        _ = end.recv() => Err(Error::silent(143)),
    }
}

/// `hull logout`.
pub async fn logout(args: LogoutArgs, context: &Context) -> Result<ExitStatus, Error> {
    let key = server::key(args.server.as_deref());
    let mut names = vec![key.to_owned()];
    if key == server::INDEX {
        // What Docker's own login in the browser leaves.
        names.extend([format!("{key}access-token"), format!("{key}refresh-token")]);
    } else {
        // Those whom a login of long ago kept under an address.
        names.extend([format!("http://{key}"), format!("https://{key}")]);
        names.extend(args.server.clone().filter(|typed| !names.contains(typed)));
    }
    if Credentials::of(&context.config_dir).erase(&names)? {
        outln!("Removing login credentials for {key}")?;
    } else {
        outln!("Not logged in to {key}")?;
    }
    Ok(ExitStatus::SUCCESS)
}
