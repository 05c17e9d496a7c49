//! From tokens to a tree.

use std::collections::HashMap;
use std::fmt;

use super::functions;
use super::lex::{Fault, Kind, Token, lex};

/// What cannot be the name of a function.
pub(super) const KEYWORDS: &[&str] =
    &["block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"];

/// How deep actions and parentheses may nest: what a person writes stays far below, and the stack above.
const DEEPEST: usize = 100;

/// A part of a template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    If(Branch),
    With(Branch),
    Range(Branch),
    Template { at: usize, name: String, argument: Option<Pipe> },
    Break,
    Continue,
}

/// A condition and its two sides.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) pipe: Pipe,
    pub(super) then: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

/// `$x, $y := command | command`.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) variables: Vec<String>,
    /// `=` and not `:=`.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

/// A function, field or value, with its arguments behind it.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) at: usize,
    pub(super) operands: Vec<Operand>,
}

/// One word of a command, and the byte that messages name.
#[derive(Debug)]
pub(super) struct Operand {
    pub(super) at: usize,
    pub(super) term: Term,
}

/// What a word is.
#[derive(Debug)]
pub(super) enum Term {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Function(String),
    /// `.A.B`
    Field(Vec<String>),
    /// `$x.A.B`
    Variable(String, Vec<String>),
    /// `(…)`
    Pipe(Box<Pipe>),
    /// `(…).A.B`
    Chain(Box<Operand>, Vec<String>),
}

/// A whole template.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: Vec<Node>,
    pub(super) named: HashMap<String, Vec<Node>>,
}

/// Parses `source`.
///
/// # Errors
/// The byte and what is wrong there.
pub(super) fn parse(source: &str) -> Result<Tree, Fault> {
    let tokens = lex(source)?;
    let mut parser = Parser {
        tokens,
        next: 0,
        variables: vec!["$".to_owned()],
        named: HashMap::new(),
        loops: 0,
        depth: 0,
    };
    let (root, end) = parser.nodes()?;
    match end {
        Ending::Eof => Ok(Tree { root, named: parser.named }),
        Ending::End => Err((parser.at(), "unexpected {{end}}".to_owned())),
        Ending::Else => Err((parser.at(), "unexpected {{else}}".to_owned())),
    }
}

/// What ended a list of nodes.
#[derive(Debug, PartialEq)]
enum Ending {
    Eof,
    End,
    /// `{{else`, what follows it not read yet.
    Else,
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    /// The variables that can be seen here.
    variables: Vec<String>,
    named: HashMap<String, Vec<Node>>,
    /// How many `range` are around.
    loops: usize,
    depth: usize,
}

impl Parser {
    /// The next token. There always is one: the last is [`Kind::End`], and it is never passed.
    fn peek(&self) -> &Kind {
        &self.tokens[self.next].kind
    }

    fn at(&self) -> usize {
        self.tokens[self.next].at
    }

    fn take(&mut self) -> Kind {
        let kind = self.peek().clone();
        if self.next + 1 < self.tokens.len() {
            self.next += 1;
        }
        kind
    }

    fn skip_space(&mut self) {
        while *self.peek() == Kind::Space {
            self.take();
        }
    }

    fn unexpected<T>(&self, context: &str) -> Result<T, Fault> {
        self.fault(match self.peek() {
            Kind::End => "unexpected EOF".to_owned(),
            other => format!("unexpected {} in {context}", other.shown()),
        })
    }

    fn fault<T>(&self, what: impl Into<String>) -> Result<T, Fault> {
        Err((self.at(), what.into()))
    }

    /// Runs `inner` one level deeper.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.depth == DEEPEST {
            return self.fault(format!("nested deeper than {DEEPEST} levels"));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Nodes up to what ends them; the end's own action is read, but for what follows an `else`.
    fn nodes(&mut self) -> Result<(Vec<Node>, Ending), Fault> {
        let mut nodes = Vec::new();
        loop {
            match self.take() {
                Kind::End => return Ok((nodes, Ending::Eof)),
                Kind::Text(text) => nodes.push(Node::Text(text)),
                Kind::Open => {
                    self.skip_space();
                    let keyword = match self.peek() {
                        Kind::Word(word) if KEYWORDS.contains(&word.as_str()) => Some(word.clone()),
                        _ => None,
                    };
                    let Some(keyword) = keyword else {
                        nodes.push(Node::Action(self.pipe("command", false)?));
                        continue;
                    };
                    self.take();
                    match keyword.as_str() {
                        "end" => {
                            self.close("end")?;
                            return Ok((nodes, Ending::End));
                        }
                        "else" => return Ok((nodes, Ending::Else)),
                        "define" => self.define()?,
                        other => nodes.push(self.keyword(other)?),
                    }
                }
                _ => return self.unexpected("input"),
            }
        }
    }

    fn keyword(&mut self, keyword: &str) -> Result<Node, Fault> {
        match keyword {
            "if" => Ok(Node::If(self.branch("if")?)),
            "with" => Ok(Node::With(self.branch("with")?)),
            "range" => {
                self.loops += 1;
                let branch = self.branch("range");
                self.loops -= 1;
                Ok(Node::Range(branch?))
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return self.fault(format!("{{{{{keyword}}}}} outside {{{{range}}}}"));
                }
                self.close(keyword)?;
                Ok(if keyword == "break" { Node::Break } else { Node::Continue })
            }
            "template" => {
                self.skip_space();
                let at = self.at();
                let name = self.name("template clause")?;
                self.skip_space();
                let argument = if *self.peek() == Kind::Close {
                    self.take();
                    None
                } else {
                    Some(self.pipe("template clause", false)?)
                };
                Ok(Node::Template { at, name, argument })
            }
            _ => {
                // block: a definition and its use in one.
                self.skip_space();
                let at = self.at();
                let name = self.name("block clause")?;
                self.skip_space();
                let argument = self.pipe("block clause", false)?;
                self.body(name.clone(), "block")?;
                Ok(Node::Template { at, name, argument: Some(argument) })
            }
        }
    }

    fn define(&mut self) -> Result<(), Fault> {
        if self.depth > 0 || self.loops > 0 {
            return self.fault("unexpected {{define}}");
        }
        let name = self.name("define clause")?;
        self.close("define clause")?;
        self.body(name, "define")
    }

    /// The body of a definition: it sees no variable but `$`.
    fn body(&mut self, name: String, keyword: &str) -> Result<(), Fault> {
        let outer = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let loops = std::mem::take(&mut self.loops);
        let (nodes, end) = self.nested(Self::nodes)?;
        self.variables = outer;
        self.loops = loops;
        if end != Ending::End {
            return self.unexpected(&format!("{keyword} clause"));
        }
        self.named.insert(name, nodes);
        Ok(())
    }

    fn name(&mut self, context: &str) -> Result<String, Fault> {
        self.skip_space();
        match self.peek() {
            Kind::Str(_) => match self.take() {
                Kind::Str(name) => Ok(name),
                _ => self.unexpected(context),
            },
            _ => self.unexpected(context),
        }
    }

    fn close(&mut self, context: &str) -> Result<(), Fault> {
        self.skip_space();
        if *self.peek() != Kind::Close {
            return self.unexpected(context);
        }
        self.take();
        Ok(())
    }

    /// What follows `if`, `with` or `range`, to its `end`.
    fn branch(&mut self, keyword: &str) -> Result<Branch, Fault> {
        self.nested(|parser| {
            let visible = parser.variables.len();
            let pipe = parser.pipe(keyword, keyword == "range")?;
            let (then, ending) = parser.nodes()?;
            let otherwise = match ending {
                Ending::End => Vec::new(),
                Ending::Else => parser.otherwise(keyword)?,
                Ending::Eof => return parser.fault("unexpected EOF"),
            };
            parser.variables.truncate(visible);
            Ok(Branch { pipe, then, otherwise })
        })
    }

    /// What follows an `else`: `else if` and `else with` hold a branch of their own that takes the `end`.
    fn otherwise(&mut self, keyword: &str) -> Result<Vec<Node>, Fault> {
        self.skip_space();
        if keyword != "range" && *self.peek() == Kind::Word(keyword.to_owned()) {
            self.take();
            let branch = self.branch(keyword)?;
            return Ok(vec![if keyword == "if" { Node::If(branch) } else { Node::With(branch) }]);
        }
        self.close("else")?;
        match self.nodes()? {
            (nodes, Ending::End) => Ok(nodes),
            (_, Ending::Else) => self.fault("expected end; found {{else}}"),
            (_, Ending::Eof) => self.fault("unexpected EOF"),
        }
    }

    /// A pipeline up to and with the action's end.
    fn pipe(&mut self, context: &str, in_range: bool) -> Result<Pipe, Fault> {
        let pipe = self.pipe_until(context, in_range, &Kind::Close)?;
        self.take();
        Ok(pipe)
    }

    /// A pipeline up to `end`, which is not taken.
    fn pipe_until(&mut self, context: &str, in_range: bool, end: &Kind) -> Result<Pipe, Fault> {
        let mut pipe = Pipe { variables: Vec::new(), assigns: false, commands: Vec::new() };
        self.skip_space();
        self.declarations(&mut pipe, context, in_range)?;
        loop {
            self.skip_space();
            match self.peek() {
                kind if kind == end => break,
                Kind::Word(word) if KEYWORDS.contains(&word.as_str()) => return self.unexpected("operand"),
                Kind::Close
                | Kind::RightParen
                | Kind::Pipe
                | Kind::Assign
                | Kind::Declare
                | Kind::Comma
                | Kind::End => {
                    return self.unexpected(context);
                }
                _ => pipe.commands.push(self.command(end)?),
            }
        }
        let Some((_, later)) = pipe.commands.split_first() else {
            return self.fault(format!("missing value for {context}"));
        };
        for (index, command) in later.iter().enumerate() {
            if let Term::Bool(_) | Term::Dot | Term::Nil | Term::Int(_) | Term::Float(_) | Term::Str(_) =
                command.operands[0].term
            {
                return self.fault(format!("non executable command in pipeline stage {}", index + 2));
            }
        }
        Ok(pipe)
    }

    /// `$x :=`, `$x =`, and in a range `$i, $x :=`; nothing is taken where there is none.
    fn declarations(&mut self, pipe: &mut Pipe, context: &str, in_range: bool) -> Result<(), Fault> {
        let start = self.next;
        let mut names = Vec::new();
        while let Kind::Variable(name) = self.peek() {
            names.push(name.clone());
            self.take();
            self.skip_space();
            match self.peek() {
                Kind::Comma if in_range && names.len() < 2 => {
                    self.take();
                    self.skip_space();
                }
                Kind::Comma => return self.fault(format!("too many declarations in {context}")),
                Kind::Declare => {
                    self.take();
                    self.variables.extend(names.iter().cloned());
                    pipe.variables = names;
                    return Ok(());
                }
                Kind::Assign => {
                    for name in &names {
                        self.check_variable(name)?;
                    }
                    self.take();
                    pipe.assigns = true;
                    pipe.variables = names;
                    return Ok(());
                }
                _ => break,
            }
        }
        // No declaration: the variable is the pipeline's first word.
        self.next = start;
        Ok(())
    }

    fn check_variable(&self, name: &str) -> Result<(), Fault> {
        if self.variables.iter().any(|v| v == name) {
            return Ok(());
        }
        self.fault(format!("undefined variable {name:?}"))
    }

    /// Words up to a `|`, which is taken, or to the pipeline's end, which is not.
    fn command(&mut self, end: &Kind) -> Result<Command, Fault> {
        let mut command = Command { at: self.at(), operands: Vec::new() };
        loop {
            self.skip_space();
            if self.peek() == end {
                break;
            }
            if *self.peek() == Kind::Pipe {
                self.take();
                break;
            }
            let operand = self.operand()?;
            command.operands.push(operand);
            match self.peek() {
                Kind::Space | Kind::Pipe => {}
                kind if kind == end => {}
                _ => return self.unexpected("operand"),
            }
        }
        Ok(command)
    }

    fn operand(&mut self) -> Result<Operand, Fault> {
        let at = self.at();
        let term = match self.peek().clone() {
            Kind::Dot => Term::Dot,
            Kind::Int(i) => Term::Int(i),
            Kind::Float(f) => Term::Float(f),
            Kind::Str(text) => Term::Str(text),
            Kind::Field(name) => Term::Field(vec![name]),
            Kind::Variable(name) => {
                self.check_variable(&name)?;
                Term::Variable(name, Vec::new())
            }
            Kind::Word(word) => match word.as_str() {
                "true" | "false" => Term::Bool(word == "true"),
                "nil" => Term::Nil,
                name if KEYWORDS.contains(&name) => return self.unexpected("operand"),
                name => {
                    functions::check(name).map_err(|what| (at, what))?;
                    Term::Function(word)
                }
            },
            Kind::LeftParen => {
                self.take();
                let inner = self
                    .nested(|parser| parser.pipe_until("parenthesized pipeline", false, &Kind::RightParen))?;
                Term::Pipe(Box::new(inner))
            }
            _ => return self.unexpected("operand"),
        };
        self.take();
        self.chain(Operand { at, term })
    }

    /// The fields that follow a word without a blank.
    fn chain(&mut self, first: Operand) -> Result<Operand, Fault> {
        // Messages name the place of the chain's second link, as Go's do.
        let at = self.at();
        let mut fields = Vec::new();
        while let Kind::Field(name) = self.peek() {
            fields.push(name.clone());
            self.take();
        }
        if fields.is_empty() {
            return Ok(first);
        }
        let term = match first.term {
            Term::Field(mut names) => {
                names.extend(fields);
                Term::Field(names)
            }
            Term::Variable(name, _) => Term::Variable(name, fields),
            Term::Bool(_) | Term::Int(_) | Term::Float(_) | Term::Str(_) | Term::Nil | Term::Dot => {
                let shown = Operand { at: first.at, term: first.term }.to_string();
                return Err((at, format!("unexpected . after term {shown:?}")));
            }
            other => Term::Chain(Box::new(Operand { at: first.at, term: other }), fields),
        };
        Ok(Operand { at, term })
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields =
            |f: &mut fmt::Formatter<'_>, names: &[String]| names.iter().try_for_each(|n| write!(f, ".{n}"));
        match &self.term {
            Term::Dot => f.write_str("."),
            Term::Nil => f.write_str("nil"),
            Term::Bool(b) => write!(f, "{b}"),
            Term::Int(i) => write!(f, "{i}"),
            Term::Float(x) => write!(f, "{x}"),
            Term::Str(text) => write!(f, "{text:?}"),
            Term::Function(name) => f.write_str(name),
            Term::Field(names) => fields(f, names),
            Term::Variable(name, names) => {
                f.write_str(name)?;
                fields(f, names)
            }
            Term::Pipe(pipe) => write!(f, "({pipe})"),
            Term::Chain(inner, names) => {
                write!(f, "{inner}")?;
                fields(f, names)
            }
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, operand) in self.operands.iter().enumerate() {
            write!(f, "{}{operand}", if index > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.variables.is_empty() {
            write!(f, "{} {} ", self.variables.join(", "), if self.assigns { "=" } else { ":=" })?;
        }
        for (index, command) in self.commands.iter().enumerate() {
            write!(f, "{}{command}", if index > 0 { " | " } else { "" })?;
        }
        Ok(())
    }
}
