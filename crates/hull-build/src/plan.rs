//! Which stages are built, and on what: what the target does not need is not.

use std::collections::{BTreeMap, BTreeSet};

use hull_image::Platform;

use crate::dockerfile::expand::{Expander, fits};
use crate::dockerfile::{Dockerfile, Instruction, Kind, Mistake, Pairs, Stage, nearest};
use crate::request::Request;

/// What a Dockerfile means for one request.
#[derive(Clone, Debug)]
pub struct Plan {
    /// All stages, in their order.
    pub stages: Vec<Planned>,
    /// The one that is wanted.
    pub target: usize,
    /// Those that are built, in their order.
    pub needed: Vec<usize>,
    /// The arguments before the first stage, with their values.
    pub globals: BTreeMap<String, Option<String>>,
    /// The instructions before the first stage, as they are written.
    pub before: Vec<String>,
    /// What escapes.
    pub escape: char,
}

/// A stage.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its name, or its number.
    pub name: String,
    /// What it stands on.
    pub base: Base,
    /// `--platform`, where it says one.
    pub platform: Option<Platform>,
    /// Its FROM.
    pub from: Instruction,
    /// What follows.
    pub instructions: Vec<Instruction>,
    /// The stages that its instructions name.
    pub depends: BTreeSet<usize>,
}

/// What a stage stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image.
    Image(String),
    /// A context of that name.
    Context(String),
}

/// The values of the arguments about platforms.
pub fn platform_arguments(request: &Request) -> BTreeMap<String, String> {
    let host = Platform::host();
    let target = request.platform.clone().unwrap_or_else(Platform::host);
    let mut values = BTreeMap::new();
    for (prefix, platform) in [("TARGET", &target), ("BUILD", &host)] {
        values.insert(format!("{prefix}PLATFORM"), platform.to_string());
        values.insert(format!("{prefix}OS"), platform.os.clone());
        values.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        values.insert(format!("{prefix}VARIANT"), platform.variant.clone());
    }
    values
}

/// Finds out what is built.
///
/// # Errors
/// A stage that is named is not there, or an image's name is none.
pub fn plan(file: &Dockerfile, request: &Request) -> Result<Plan, Mistake> {
    let escape = file.directives.escape;
    let platforms = platform_arguments(request);
    let mut globals: BTreeMap<String, Option<String>> = BTreeMap::new();
    for instruction in &file.arguments {
        let Kind::Arg(arguments) = &instruction.kind else { continue };
        for (name, default) in arguments {
            let given = request.build_args.get(name).cloned().flatten();
            let value = match (given, default) {
                (Some(value), _) => Some(value),
                (None, Some(default)) => {
                    let value = |name: &str| {
                        globals.get(name).cloned().flatten().or_else(|| platforms.get(name).cloned())
                    };
                    let word = Expander::new(escape, &value).word(default);
                    Some(word.map_err(|message| instruction.mistake(message))?)
                }
                (None, None) => platforms.get(name).cloned(),
            };
            globals.insert(name.clone(), value);
        }
        fits("the arguments before the first stage", globals.values().flatten().map(String::as_str))
            .map_err(|message| instruction.mistake(message))?;
    }
    let value = |name: &str| globals.get(name).cloned().flatten().or_else(|| platforms.get(name).cloned());
    let mut stages: Vec<Planned> = Vec::new();
    for (index, stage) in file.stages.iter().enumerate() {
        let planned = planned(index, stage, &stages, &file.stages, &Expander::new(escape, &value), request)?;
        stages.push(planned);
    }
    let target = target(&stages, &file.stages, &request.target)?;
    // Docker's classic builder leaves no stage out that stands before the one that is wanted.
    let needed = if request.classic { (0..=target).collect() } else { needed(&stages, target) };
    if request.classic {
        label(&mut stages[target], &request.labels);
    }
    for name in &request.no_cache_filter {
        stage_named(name, &stages, &file.stages, "stage of --no-cache-filter")?;
    }
    let before = file.arguments.iter().map(|instruction| instruction.text.clone()).collect();
    Ok(Plan { stages, target, needed, globals, before, escape })
}

/// The labels of a request as the last steps of a stage, as Docker's classic builder has them.
fn label(stage: &mut Planned, labels: &BTreeMap<String, String>) {
    // Nothing in them is expanded.
    let literal = |text: &String| format!("'{}'", text.replace('\'', r#"'"'"'"#));
    for (name, value) in labels {
        stage.instructions.push(Instruction {
            text: format!("LABEL {name}={value}"),
            keyword: "LABEL".to_owned(),
            kind: Kind::Label(Pairs { pairs: vec![(literal(name), literal(value))], legacy: false }),
            comments: Vec::new(),
            ..stage.from.clone()
        });
    }
}

fn planned(
    index: usize,
    stage: &Stage,
    before: &[Planned],
    all: &[Stage],
    expander: &Expander<'_>,
    request: &Request,
) -> Result<Planned, Mistake> {
    let wrong = |message: String| stage.from.mistake(message);
    let image = expander.word(&stage.base).map_err(wrong)?;
    if image.is_empty() {
        return Err(stage.from.mistake(format!("base name ({}) should not be blank", stage.base)));
    }
    let base = match find(before, all, &image) {
        Some(stage) => Base::Stage(stage),
        None if image == "scratch" => Base::Scratch,
        None if request.named(&image).is_some() => Base::Context(image),
        None => Base::Image(image),
    };
    // A context of a stage's name is in that stage's place.
    let replaced = stage.name.as_ref().filter(|name| request.contexts.contains_key(*name));
    let base = replaced.map_or(base, |name| Base::Context(name.clone()));
    let instructions = if replaced.is_some() { Vec::new() } else { stage.instructions.clone() };
    let platform = match &stage.platform {
        None => None,
        Some(platform) => {
            let platform = expander.word(platform).map_err(wrong)?;
            match platform.is_empty() {
                true => None,
                false => Some(platform.parse().map_err(|error: hull_image::Error| {
                    stage.from.mistake(format!("failed to parse platform {platform}: {error}"))
                })?),
            }
        }
    };
    let mut depends = BTreeSet::new();
    for instruction in &instructions {
        let out = |from: &String| {
            from.bytes().all(|byte| byte.is_ascii_digit())
                && stage_of(from, before, all).is_none()
                && request.named(from).is_none()
        };
        // The classic builder says that when it comes to it.
        if !request.classic
            && let Kind::Copy(copy) = &instruction.kind
            && let Some(from) = copy.from.as_ref().filter(|from| !from.is_empty() && out(from))
        {
            return Err(instruction.mistake(format!("invalid from flag value {from}: index out of bounds")));
        }
    }
    for name in instructions.iter().flat_map(named_stages) {
        depends.extend(stage_of(&name, before, all));
    }
    if let Base::Stage(base) = base {
        depends.insert(base);
    }
    Ok(Planned {
        name: stage.name.clone().unwrap_or_else(|| format!("stage-{index}")),
        base,
        platform,
        from: stage.from.clone(),
        instructions,
        depends,
    })
}

/// The stage that is called so; the last one where several are.
fn find(before: &[Planned], all: &[Stage], name: &str) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    (0..before.len()).rev().find(|index| all[*index].name.as_deref() == Some(lower.as_str()))
}

/// An earlier stage, by its name or its number.
fn stage_of(name: &str, before: &[Planned], all: &[Stage]) -> Option<usize> {
    let numbered = || name.parse::<usize>().ok().filter(|number| *number < before.len());
    find(before, all, name).or_else(numbered)
}

/// What an instruction names by `from`, as it is written.
pub fn named_stages(instruction: &Instruction) -> Vec<String> {
    match &instruction.kind {
        Kind::Copy(copy) => copy.from.iter().cloned().collect(),
        Kind::Run(run) => {
            run.mounts.iter().map(|mount| mount.from.clone()).filter(|from| !from.is_empty()).collect()
        }
        _ => Vec::new(),
    }
}

impl Plan {
    /// The stage before `stage` that is called so.
    pub fn earlier(&self, stage: usize, name: &str) -> Option<usize> {
        let lower = name.to_ascii_lowercase();
        let named = (0..stage).rev().find(|index| self.stages[*index].name == lower);
        named.or_else(|| name.parse::<usize>().ok().filter(|number| *number < stage))
    }

    /// Whether a list of names has the stage of this number, by its name or by that number.
    pub fn is_among(&self, stage: usize, names: &[String]) -> bool {
        names.iter().any(|name| self.earlier(self.stages.len(), name) == Some(stage))
    }

    /// What a stage is built for, where it says so itself or stands on one that does; none: what the build is for.
    pub fn platform_of(&self, mut stage: usize) -> Option<&Platform> {
        while let Base::Stage(below) = self.stages[stage].base {
            stage = below;
        }
        self.stages[stage].platform.as_ref()
    }

    /// How many steps are built.
    pub fn steps(&self) -> usize {
        self.needed.iter().map(|stage| 1 + self.stages[*stage].instructions.len()).sum()
    }
}

fn target(stages: &[Planned], all: &[Stage], wanted: &str) -> Result<usize, Mistake> {
    if wanted.is_empty() {
        return Ok(stages.len() - 1);
    }
    stage_named(wanted, stages, all, "target stage")
}

/// The stage that somebody names, or an error with the nearest name.
fn stage_named(wanted: &str, stages: &[Planned], all: &[Stage], what: &str) -> Result<usize, Mistake> {
    stage_of(wanted, stages, all).ok_or_else(|| {
        let names = all.iter().filter_map(|stage| stage.name.as_deref());
        let hint = nearest(wanted, names).map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
        Mistake::of_file(format!("{what} {wanted:?} could not be found{hint}"))
    })
}

fn needed(stages: &[Planned], target: usize) -> Vec<usize> {
    let mut needed = BTreeSet::new();
    let mut open = vec![target];
    while let Some(stage) = open.pop() {
        if needed.insert(stage) {
            open.extend(&stages[stage].depends);
        }
    }
    needed.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;

    fn of(text: &str, target: &str, args: &[(&str, &str)]) -> Result<Plan, Mistake> {
        let build_args =
            args.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned()))).collect();
        let request = Request { target: target.to_owned(), build_args, ..Request::default() };
        plan(&parse(text).unwrap(), &request)
    }

    #[test]
    fn what_the_target_does_not_need_is_not_built() {
        let text = "FROM x AS one\nFROM one AS two\nFROM y AS unused\nFROM scratch\nCOPY --from=0 /a /a\nCOPY --from=two /a /b\n\
                    RUN --mount=from=z,target=/z true\n";
        let plan = of(text, "", &[]).unwrap();
        assert_eq!(plan.needed, [0, 1, 3]);
        assert_eq!(plan.stages[1].base, Base::Stage(0));
        assert_eq!(plan.stages[3].base, Base::Scratch);
        assert_eq!(plan.steps(), 6);
        assert_eq!(of(text, "two", &[]).unwrap().needed, [0, 1]);
        assert_eq!(of(text, "Unused", &[]).unwrap().needed, [2]);
        let beyond = of("FROM x\nCOPY --from=1 /a /a\n", "", &[]).unwrap_err();
        assert_eq!(
            (beyond.message.as_str(), beyond.at.map(|at| at.line)),
            ("invalid from flag value 1: index out of bounds", Some(2))
        );
        assert!(plan.is_among(1, &["TWO".to_owned()]) && plan.is_among(1, &["1".to_owned()]));
        assert!(!plan.is_among(0, &["two".to_owned()]));
        assert_eq!(
            of(text, "twoo", &[]).unwrap_err().message,
            "target stage \"twoo\" could not be found (did you mean two?)"
        );
    }

    #[test]
    fn contexts_are_in_the_place_of_images_and_stages() {
        let file = parse("FROM base AS one\nRUN false\nFROM one\nFROM App\n").unwrap();
        let image = crate::named::Named::Image("x".to_owned());
        let contexts = [("one".to_owned(), image.clone()), ("app".to_owned(), image)];
        let plan = plan(&file, &Request { contexts: contexts.into(), ..Request::default() }).unwrap();
        assert_eq!(plan.stages[0].base, Base::Context("one".to_owned()));
        assert!(plan.stages[0].instructions.is_empty());
        assert_eq!(plan.stages[1].base, Base::Stage(0));
        assert_eq!(plan.stages[2].base, Base::Context("App".to_owned()));
    }

    #[test]
    fn global_arguments_name_images() {
        let text = "ARG V=1\nARG I=base:${V}\nFROM ${I}\nFROM ${I}-${TARGETOS}\nFROM $NO\n";
        let error = of(text, "", &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "dockerfile parse error on line 5: base name ($NO) should not be blank"
        );
        let text = text.replace("FROM $NO\n", "");
        let plan = of(&text, "", &[("V", "2")]).unwrap();
        assert_eq!(plan.stages[0].base, Base::Image("base:2".to_owned()));
        assert_eq!(plan.stages[1].base, Base::Image("base:2-linux".to_owned()));
    }

    #[test]
    fn arguments_that_double_are_told_with_their_line() {
        let mut text = "ARG A0=0123456789abcdef\n".to_owned();
        for line in 1..40 {
            let before = line - 1;
            text.push_str(&format!("ARG A{line}=$A{before}$A{before}\n"));
        }
        let error = of(&(text + "FROM scratch\n"), "", &[]).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "dockerfile parse error on line 17: the arguments before the first stage come to"
            ),
            "{error}"
        );
        let many: String = (0..9).map(|number| format!("ARG B{number}=$A\n")).collect();
        let long = "x".repeat(200 << 10);
        assert!(of(&format!("ARG A\n{many}FROM scratch\n"), "", &[("A", &long)]).is_err());
        assert!(of(&format!("ARG A\n{many}FROM scratch\n"), "", &[("A", "x")]).is_ok());
    }

    #[test]
    fn a_stage_that_is_called_as_an_image_is_that_image_to_itself() {
        let plan = of("FROM busybox AS busybox\nFROM busybox\n", "", &[]).unwrap();
        assert_eq!(plan.stages[0].base, Base::Image("busybox".to_owned()));
        assert_eq!(plan.stages[1].base, Base::Stage(0));
        assert_eq!(plan.earlier(1, "0"), Some(0));
        assert_eq!(plan.earlier(1, "1"), None);
    }
}
