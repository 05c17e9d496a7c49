//! From a tree and a value to text.

use super::functions;
use super::parse::{Branch, Command, Node, Operand, Pipe, Term, Tree};
use super::value::{METHOD_LABEL, Shape, Val};

/// How deep templates may use templates; Go allows 100,000, on a stack that grows.
const DEEPEST: usize = 100;

/// Where evaluation failed: the byte, and `<what is written there>: why`.
pub(super) type Failure = (usize, String);

/// Why a function or field cannot be evaluated; where, its caller knows.
pub(super) type Refusal = String;

/// What the nodes so far ask of the range around them.
#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// One rendering.
pub(super) struct Evaluation<'t, 'a> {
    tree: &'t Tree,
    out: String,
    /// Innermost last.
    variables: Vec<(&'t str, Val<'a>)>,
    /// Each value is a column's title, which functions leave as it is.
    header: bool,
    depth: usize,
}

impl<'t, 'a> Evaluation<'t, 'a> {
    /// Renders the tree for `value`.
    ///
    /// # Errors
    /// Where evaluation failed and why.
    pub(super) fn run(tree: &'t Tree, value: Val<'a>, header: bool) -> Result<String, Failure> {
        let mut evaluation =
            Evaluation { tree, out: String::new(), variables: vec![("$", value.clone())], header, depth: 0 };
        evaluation.nodes(&tree.root, &value)?;
        Ok(evaluation.out)
    }

    fn nodes(&mut self, nodes: &'t [Node], dot: &Val<'a>) -> Result<Flow, Failure> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.out.push_str(text);
                    Flow::Next
                }
                Node::Action(pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    if pipe.variables.is_empty() {
                        self.out.push_str(&value.print());
                    }
                    Flow::Next
                }
                Node::If(branch) => self.branch(branch, dot, false)?,
                Node::With(branch) => self.branch(branch, dot, true)?,
                Node::Range(branch) => self.range(branch, dot)?,
                Node::Template { at, name, argument } => {
                    self.template(*at, name, argument.as_ref(), dot)?;
                    Flow::Next
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    /// `if`, and `with`, which makes the condition's value the dot.
    fn branch(&mut self, branch: &'t Branch, dot: &Val<'a>, with: bool) -> Result<Flow, Failure> {
        let visible = self.variables.len();
        let value = self.pipe(&branch.pipe, dot)?;
        let flow = match (value.truth(), with) {
            (true, true) => self.nodes(&branch.then, &value),
            (true, false) => self.nodes(&branch.then, dot),
            (false, _) => self.nodes(&branch.otherwise, dot),
        };
        self.variables.truncate(visible);
        flow
    }

    fn range(&mut self, branch: &'t Branch, dot: &Val<'a>) -> Result<Flow, Failure> {
        let visible = self.variables.len();
        let over = self.commands(&branch.pipe, dot)?;
        let mut entries = entries(&over).ok_or_else(|| range_failure(&branch.pipe, &over))?.peekable();
        if entries.peek().is_none() {
            let flow = self.nodes(&branch.otherwise, dot);
            self.variables.truncate(visible);
            return flow;
        }
        for (key, item) in entries {
            self.loop_variables(&branch.pipe, key, &item);
            let flow = self.nodes(&branch.then, &item)?;
            self.variables.truncate(visible);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    /// One variable is the item; of two, the first is the index or key.
    fn loop_variables(&mut self, pipe: &'t Pipe, key: Val<'a>, item: &Val<'a>) {
        let values = match pipe.variables.as_slice() {
            [] => return,
            [_] => vec![item.clone()],
            _ => vec![key, item.clone()],
        };
        for (name, value) in pipe.variables.iter().zip(values) {
            self.set(name, value, pipe.assigns);
        }
    }

    fn set(&mut self, name: &'t str, value: Val<'a>, assigns: bool) {
        if assigns && let Some(slot) = self.variables.iter_mut().rev().find(|(n, _)| *n == name) {
            slot.1 = value;
            return;
        }
        self.variables.push((name, value));
    }

    fn template(
        &mut self,
        at: usize,
        name: &str,
        argument: Option<&'t Pipe>,
        dot: &Val<'a>,
    ) -> Result<(), Failure> {
        let tree = self.tree;
        let Some(nodes) = tree.named.get(name) else {
            return Err((at, format!("<{{{{template {name:?}}}}}>: template {name:?} not defined")));
        };
        if self.depth == DEEPEST {
            return Err((
                at,
                format!("<{{{{template {name:?}}}}}>: exceeded maximum template depth ({DEEPEST})"),
            ));
        }
        let value = match argument {
            Some(pipe) => self.pipe(pipe, dot)?,
            None => Val::Missing,
        };
        let outer = std::mem::replace(&mut self.variables, vec![("$", value.clone())]);
        self.depth += 1;
        self.nodes(nodes, &value)?;
        self.depth -= 1;
        self.variables = outer;
        Ok(())
    }

    /// A pipeline's value; its variables are set.
    fn pipe(&mut self, pipe: &'t Pipe, dot: &Val<'a>) -> Result<Val<'a>, Failure> {
        let value = self.commands(pipe, dot)?;
        for name in &pipe.variables {
            self.set(name, value.clone(), pipe.assigns);
        }
        Ok(value)
    }

    fn commands(&mut self, pipe: &'t Pipe, dot: &Val<'a>) -> Result<Val<'a>, Failure> {
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(command, dot, value)?);
        }
        Ok(value.unwrap_or(Val::Missing))
    }

    /// One command; `last` is the value that a pipe passes as the last argument.
    fn command(
        &mut self,
        command: &'t Command,
        dot: &Val<'a>,
        last: Option<Val<'a>>,
    ) -> Result<Val<'a>, Failure> {
        let [first, arguments @ ..] = command.operands.as_slice() else { return Ok(Val::Missing) };
        match &first.term {
            Term::Function(name) => self.function(command, name, arguments, dot, last),
            Term::Field(names) => self.fields(first, dot.clone(), names, arguments, dot, last),
            Term::Variable(name, names) => {
                let value = self.variable(name);
                self.fields(first, value, names, arguments, dot, last)
            }
            Term::Chain(inner, names) => {
                let value = self.operand(inner, dot)?;
                self.fields(first, value, names, arguments, dot, last)
            }
            Term::Nil => Err((first.at, "<nil>: nil is not a command".to_owned())),
            _ if !arguments.is_empty() || last.is_some() => {
                Err((first.at, format!("<{first}>: can't give argument to non-function {first}")))
            }
            _ => self.operand(first, dot),
        }
    }

    /// An argument's value.
    fn operand(&mut self, operand: &'t Operand, dot: &Val<'a>) -> Result<Val<'a>, Failure> {
        match &operand.term {
            Term::Dot => Ok(dot.clone()),
            Term::Nil => Ok(Val::Nil),
            Term::Bool(b) => Ok(Val::Bool(*b)),
            Term::Int(i) => Ok(Val::Int(*i)),
            Term::Float(f) => Ok(Val::Float(*f)),
            Term::Str(text) => Ok(Val::Str(text.clone())),
            Term::Field(names) => self.fields(operand, dot.clone(), names, &[], dot, None),
            Term::Variable(name, names) => {
                let value = self.variable(name);
                self.fields(operand, value, names, &[], dot, None)
            }
            Term::Pipe(pipe) => self.pipe(pipe, dot),
            Term::Chain(inner, names) => {
                let value = self.operand(inner, dot)?;
                self.fields(operand, value, names, &[], dot, None)
            }
            Term::Function(name) => functions::call(name, Vec::new(), self.header)
                .map_err(|why| (operand.at, format!("<{operand}>: {why}"))),
        }
    }

    fn variable(&self, name: &str) -> Val<'a> {
        let found = self.variables.iter().rev().find(|(n, _)| *n == name);
        found.map_or(Val::Missing, |(_, value)| value.clone())
    }

    /// A function with its arguments; `and` and `or` evaluate no more of them than they need.
    fn function(
        &mut self,
        command: &'t Command,
        name: &str,
        arguments: &'t [Operand],
        dot: &Val<'a>,
        last: Option<Val<'a>>,
    ) -> Result<Val<'a>, Failure> {
        let decides = match name {
            "and" => Some(false),
            "or" => Some(true),
            _ => None,
        };
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for argument in arguments {
            let value = self.operand(argument, dot)?;
            if decides == Some(value.truth()) {
                return Ok(value);
            }
            values.push(value);
        }
        values.extend(last);
        functions::call(name, values, self.header).map_err(|why| (command.at, format!("<{command}>: {why}")))
    }

    /// Follows `names` from `value`. Arguments go to the last of them, which must be a row's method.
    fn fields(
        &mut self,
        operand: &Operand,
        value: Val<'a>,
        names: &[String],
        arguments: &'t [Operand],
        dot: &Val<'a>,
        last: Option<Val<'a>>,
    ) -> Result<Val<'a>, Failure> {
        let fail = |why: Refusal| (operand.at, format!("<{operand}>: {why}"));
        let mut given = arguments.iter().map(|a| self.operand(a, dot)).collect::<Result<Vec<_>, _>>()?;
        given.extend(last);
        let Some((final_name, before)) = names.split_last() else {
            if given.is_empty() {
                return Ok(value);
            }
            return Err(fail(format!("can't give argument to non-function {operand}")));
        };
        let mut value = value;
        for name in before {
            value = field(value, name).map_err(fail)?;
        }
        match (&value, given.as_slice()) {
            (Val::Object(row, Shape::Row), [key]) if final_name == METHOD_LABEL => {
                self.label(row, key).map_err(fail)
            }
            (Val::Object(_, Shape::Row), _) if final_name == METHOD_LABEL => {
                Err(fail(format!("wrong number of args for {METHOD_LABEL}: want 1 got {}", given.len())))
            }
            (_, []) => field(value, final_name).map_err(fail),
            _ => Err(fail(format!("{final_name} is not a method but has arguments"))),
        }
    }

    /// `{{.Label "key"}}`; in a header, what the column is called: the key's last part.
    fn label(
        &self,
        row: &'a serde_json::Map<String, serde_json::Value>,
        key: &Val<'a>,
    ) -> Result<Val<'a>, Refusal> {
        let Val::Str(key) = key else {
            return Err(format!("wrong type for value; expected string; got {}", key.type_name()));
        };
        if self.header {
            let name = key.rsplit('.').next().unwrap_or(key);
            return Ok(Val::Str(name.replace(['-', '_'], " ")));
        }
        let found = row.get(METHOD_LABEL).and_then(|labels| labels.get(key)).and_then(|label| label.as_str());
        Ok(Val::Str(found.unwrap_or_default().to_owned()))
    }
}

/// What a range goes over: indices or keys, and items. None for what it cannot go over.
fn entries<'a>(over: &Val<'a>) -> Option<Box<dyn Iterator<Item = (Val<'a>, Val<'a>)> + 'a>> {
    Some(match over {
        Val::Missing | Val::Nil | Val::EmptyMap(_) => Box::new(std::iter::empty()),
        // Counted and not collected: a template may well say a billion, and break.
        Val::Int(count) => Box::new((0..*count).map(|i| (Val::Int(i), Val::Int(i)))),
        Val::Object(map, shape) => {
            Box::new(Val::sorted(map, *shape).into_iter().map(|(k, v)| (Val::Str(k.to_owned()), v)))
        }
        other => Box::new((0..).map(Val::Int).zip(other.items()?)),
    })
}

fn range_failure(pipe: &Pipe, over: &Val<'_>) -> Failure {
    let at = pipe.commands.first().map_or(0, |c| c.operands.first().map_or(c.at, |o| o.at));
    (at, format!("<{pipe}>: range can't iterate over {}", over.print()))
}

/// One field of a value.
fn field<'a>(value: Val<'a>, name: &str) -> Result<Val<'a>, Refusal> {
    match value {
        Val::Object(map, shape) => match (Val::get(map, shape, name), shape) {
            (Some(value), _) => Ok(value),
            (None, Shape::Row) => Err(format!("can't evaluate field {name} in this list")),
            (None, Shape::Struct | Shape::HealthCheck | Shape::Ulimit) => {
                Err(format!("map has no entry for key {name:?}"))
            }
            (None, Shape::Strings | Shape::Set | Shape::Map) => Ok(Val::Missing),
        },
        // A key of a map that is not there, and whatever is asked of that, is no value, as in Go.
        Val::Missing | Val::EmptyMap(_) => Ok(Val::Missing),
        Val::Nil => Err(format!("nil pointer evaluating interface {{}}.{name}")),
        other => Err(format!("can't evaluate field {name} in type {}", other.type_name())),
    }
}
