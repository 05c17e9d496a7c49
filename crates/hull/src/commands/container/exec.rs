//! `exec`.

use clap::Args;
use serde_json::{Value, json};

use super::foreground::{self, Foreground};
use super::options::{self, environment};
use super::run::exec_status;
use crate::client::{Query, segment};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::stream::End;
use crate::{outln, terminal};

/// `exec`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull exec -it web sh                      a shell in a running container
  hull exec -u 0 -w /etc web cat passwd     as another user, in another folder
  hull exec --timeout 10s web ./check       killed after ten seconds
  hull exec --end-with-client web top -b    killed when this command is
  hull exec kill -s TERM 4f5e…              a signal to an exec, by its whole id; KILL reaches all that came of it")]
pub struct ExecArgs {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Set environment variables
    #[arg(short, long, value_name = "list")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    env_file: Vec<String>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// Username or UID (format: "<name|uid>[:<group|gid>]")
    #[arg(short, long, value_name = "string")]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "string")]
    workdir: Option<String>,
    /// Kill the command and its children after this time (2, 10s, 1m30s)
    #[arg(long, value_name = "duration")]
    timeout: Option<String>,
    /// Kill the command and its children after they have used this much processor time
    #[arg(long, value_name = "duration")]
    cpu_time: Option<String>,
    /// Kill the command and its children when this client has gone
    #[arg(long)]
    end_with_client: bool,
    /// The container, then the command: one list, so that what follows the container is never a flag of ours.
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_name = "CONTAINER")]
    container_and_command: Vec<String>,
}

/// `hull exec`.
pub async fn exec(args: ExecArgs, context: &Context) -> Result<ExitStatus, Error> {
    if let Some((id, signal)) = to_be_killed(&args.container_and_command) {
        let path = Query::new(format!("/exec/{id}/kill")).with_some("signal", signal);
        context.client.post_empty(&path).await?;
        outln!("{id}")?;
        return Ok(ExitStatus::SUCCESS);
    }
    if args.detach && args.end_with_client {
        return Err(Error::flag("conflicting options: --detach and --end-with-client"));
    }
    if !args.detach {
        foreground::check_tty(args.interactive, args.tty)?;
    }
    let (container, command) = args
        .container_and_command
        .split_first()
        .filter(|(_, command)| !command.is_empty())
        .ok_or_else(|| Error::usage("'hull exec' requires at least 2 arguments").with_status(1))?;
    let (keys, keys_text) = if args.tty || args.detach_keys.is_some() {
        foreground::detach_keys(context, args.detach_keys.as_deref())?
    } else {
        (Vec::new(), None)
    };
    let size = if args.tty { terminal::size() } else { None };
    let body = body(&args, command, keys_text.as_deref(), size)?;
    let made: Value =
        context.client.post_json(&format!("/containers/{}/exec", segment(container)), &body).await?;
    let id = made["Id"].as_str().ok_or_else(|| Error::new("the daemon's answer has no id in it"))?;

    let mut start = json!({"Detach": args.detach, "Tty": args.tty});
    if let Some((height, width)) = size {
        start["ConsoleSize"] = json!([height, width]);
    }
    let failed = |error: Error| match exec_status(error.message()) {
        Some(status) if error.http_status().is_some() => error.with_status(status),
        _ => error,
    };
    if args.detach {
        let answer = context.client.post(&format!("/exec/{id}/start"), &start).await.map_err(failed)?;
        answer.bytes().await?;
        return Ok(ExitStatus::SUCCESS);
    }
    let io = context.client.hijack(&format!("/exec/{id}/start"), Some(&start)).await.map_err(failed)?;
    let what = Foreground {
        path: format!("/exec/{id}"),
        tty: args.tty,
        stdin: args.interactive,
        detach_keys: keys,
        signals: None,
    };
    if foreground::stay(context, io, what).await? == End::Detached {
        return Ok(ExitStatus::SUCCESS);
    }
    let state: Value = context.client.get_json(&format!("/exec/{id}/json")).await?;
    // Its streams have ended, so it has: a status that is not there must not pass for success.
    let code = state["ExitCode"]
        .as_i64()
        .ok_or_else(|| Error::new(format!("the daemon does not tell the exit status of exec {id}")))?;
    Ok(ExitStatus((code & 0xff) as u8))
}

/// `kill [-s SIGNAL] EXEC`, the exec by its 64 digits. All else is for a container, which may be called `kill`.
fn to_be_killed(words: &[String]) -> Option<(&str, Option<&str>)> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (id, signal) = match words[..] {
        ["kill", id] => (id, None),
        ["kill", "-s" | "--signal", signal, id] => (id, Some(signal)),
        ["kill", flag, id] => (id, Some(flag.strip_prefix("--signal=")?)),
        _ => return None,
    };
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then_some((id, signal))
}

fn body(
    args: &ExecArgs,
    command: &[String],
    keys: Option<&str>,
    size: Option<(u16, u16)>,
) -> Result<Value, Error> {
    let mut body = options::Object::default();
    body.set("Cmd", command.to_vec());
    body.set("AttachStdin", args.interactive && !args.detach);
    body.set("AttachStdout", !args.detach);
    body.set("AttachStderr", !args.detach);
    body.flag("Tty", args.tty);
    body.flag("Privileged", args.privileged);
    body.some("User", args.user.clone());
    body.some("WorkingDir", args.workdir.clone());
    body.some("DetachKeys", keys);
    body.list("Env", environment::variables(&args.env_file, &args.env).map_err(Error::new)?);
    body.some("Timeout", options::limit("--timeout", args.timeout.as_deref())?);
    body.some("CpuTime", options::limit("--cpu-time", args.cpu_time.as_deref())?);
    body.flag("EndWithClient", args.end_with_client);
    body.some("ConsoleSize", size.map(|(height, width)| json!([height, width])));
    Ok(body.into_value())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_is_killed_by_its_id_and_nothing_else_is() {
        let id = "0123456789abcdef".repeat(4);
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            to_be_killed(&words).map(|(id, signal)| (id.to_owned(), signal.map(str::to_owned)))
        };
        assert_eq!(of(&["kill", &id]), Some((id.clone(), None)));
        for words in [&["kill", "-s", "TERM", &id][..], &["kill", "--signal=TERM", &id]] {
            assert_eq!(of(words), Some((id.clone(), Some("TERM".to_owned()))));
        }
        // A container that is called so.
        for words in
            [&["kill", "sh"][..], &["kill", "-s", "TERM", "7"], &["kill", "echo", &id], &["web", &id]]
        {
            assert_eq!(of(words), None, "{words:?}");
        }
    }
}
