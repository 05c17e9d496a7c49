//! Templates and what Docker's client prints for them, in tables.

use serde_json::{Value, json};

use super::Template;

/// An image as `docker image inspect` has it, reduced.
fn image() -> Value {
    json!({
        "Id": "sha256:e3dbf2b4257a",
        "RepoTags": ["t:1", "u:2"],
        "RepoDigests": [],
        "Created": "2026-11-24T02:06:53.757648389Z",
        "Size": 1982256,
        "Ratio": 1.5,
        "Os": "linux",
        "Config": {
            "User": "",
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Env": ["PATH=/bin", "A=b"],
            "Cmd": ["sh"],
            "Entrypoint": null,
            "Volumes": {"/vol": {}},
            "WorkingDir": "",
            "Labels": {"a.b": "c"},
            "Healthcheck": {"Test": ["CMD-SHELL", "test -e /x"], "Interval": 5000000000i64, "Timeout": 2000000000i64, "Retries": 4},
        },
        "GraphDriver": {"Data": {"UpperDir": "/u", "LowerDir": "/l"}, "Name": "overlay2"},
        "NetworkSettings": {
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "3000"}], "53/udp": null},
            "Networks": {"bridge": {"IPAddress": "172.17.0.2", "IPAMConfig": null}, "a_net": {"IPAddress": "10.0.0.2"}},
        },
        "HostConfig": {"Ulimits": [{"Name": "nofile", "Hard": 20, "Soft": 10}], "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}}},
        "Mounts": [
            {"Type": "volume", "Name": "v", "Source": "/s", "Destination": "/d", "Driver": "local", "Mode": "z", "RW": true, "Propagation": ""},
            {"Type": "bind", "Source": "/tmp", "Destination": "/h", "Mode": "ro", "RW": false, "Propagation": "rslave"},
        ],
        "IPAM": {"Config": [{"Subnet": "10.0.0.0/24", "Gateway": "10.0.0.1"}]},
        "State": {"Running": true, "Pid": 42, "ExitCode": 0},
    })
}

fn render(template: &str) -> Result<String, String> {
    Template::parse(template)?.render(&image())
}

/// Each template prints its line.
fn prints(cases: &[(&str, &str)]) {
    for (template, expected) in cases {
        assert_eq!(render(template).as_deref(), Ok(*expected), "{template}");
    }
}

/// Each template fails with its message.
fn fails(cases: &[(&str, &str)]) {
    for (template, expected) in cases {
        let expected = format!("template parsing error: template: {expected}");
        assert_eq!(render(template), Err(expected), "{template}");
    }
}

#[test]
fn fields_and_how_go_prints_values() {
    prints(&[
        ("{{.Os}}", "linux"),
        ("{{ .Os }} {{.Size}} {{.Ratio}} {{.State.Running}}", "linux 1982256 1.5 true"),
        ("{{.Config.ExposedPorts}}", "map[53/udp:{} 80/tcp:{}]"),
        ("{{.Config.Volumes}} {{.Config.Labels}}", "map[/vol:{}] map[a.b:c]"),
        ("{{.Config.Env}} {{.Config.Entrypoint}} {{.RepoDigests}}", "[PATH=/bin A=b] [] []"),
        ("{{.Config.Healthcheck}}", "{[CMD-SHELL test -e /x] 5s 2s 0s 0s 4}"),
        (
            "{{.Config.Healthcheck.Interval}} {{.Config.Healthcheck.Timeout}} {{.Config.Healthcheck.Retries}}",
            "5s 2s 4",
        ),
        ("{{.Config.Healthcheck.StartPeriod}}", "0s"),
        ("{{.NetworkSettings.Ports}}", "map[53/udp:[] 80/tcp:[{0.0.0.0 3000}]]"),
        ("{{.NetworkSettings.Networks.a_net.IPAddress}}", "10.0.0.2"),
        ("{{.GraphDriver}}", "{map[LowerDir:/l UpperDir:/u] overlay2}"),
        ("{{.Mounts}}", "[{volume v /s /d local z true } {bind  /tmp /h  ro false rslave}]"),
        ("{{.IPAM.Config}} {{(index .IPAM.Config 0).IPRange}}|", "[{10.0.0.0/24  10.0.0.1 map[]}] |"),
        ("{{range .Mounts}}{{.Type}} {{.Name}},{{end}}", "volume v,bind ,"),
        (
            "{{.HostConfig.Ulimits}} {{json .HostConfig.Ulimits}}",
            "[nofile=10:20] [{\"Name\":\"nofile\",\"Hard\":20,\"Soft\":10}]",
        ),
        (
            "{{.HostConfig.LogConfig}} {{.HostConfig.LogConfig.Config.none}}",
            "{json-file map[max-size:10m]} <no value>",
        ),
        ("{{$.Os}} {{($).Os}} {{(.Config).User}}|", "linux linux |"),
    ]);
}

#[test]
fn what_is_left_out_of_an_answer() {
    prints(&[
        ("{{.Config.OnBuild}}|{{.Config.Shell}}|{{.Author}}|", "[]|[]||"),
        ("{{.State.Health}}", "<nil>"),
        ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
        (
            "{{.Config.Labels.foo}}|{{index .Config.Labels \"foo\"}}|{{.Config.Labels.foo.bar}}",
            "<no value>||<no value>",
        ),
        ("{{len .Config.Entrypoint}} {{len .Config.Cmd}}", "0 1"),
        ("{{(index .NetworkSettings.Networks \"bridge\").IPAMConfig}}", "<nil>"),
    ]);
    fails(&[
        ("{{.Foo}}", ":1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\""),
        ("{{.Config.Foo}}", ":1:9: executing \"\" at <.Config.Foo>: map has no entry for key \"Foo\""),
        ("a\nb {{.Foo}}", ":2:4: executing \"\" at <.Foo>: map has no entry for key \"Foo\""),
        ("{{.Os.Foo}}", ":1:5: executing \"\" at <.Os.Foo>: can't evaluate field Foo in type string"),
        (
            "{{.State.Health.Status}}",
            ":1:8: executing \"\" at <.State.Health.Status>: nil pointer evaluating interface {}.Status",
        ),
    ]);
}

#[test]
fn control() {
    prints(&[
        ("{{if .Size}}a{{else}}b{{end}}{{if .Config.User}}a{{else}}b{{end}}", "ab"),
        ("{{if eq .Os \"x\"}}1{{else if eq .Os \"linux\"}}2{{else}}3{{end}}", "2"),
        ("{{if false}}1{{else if false}}2{{else if false}}3{{else}}4{{end}}", "4"),
        ("{{range .RepoTags}}<{{.}}>{{end}}", "<t:1><u:2>"),
        ("{{range $i, $t := .RepoTags}}{{$i}}={{$t}} {{end}}", "0=t:1 1=u:2 "),
        ("{{range $t := .RepoTags}}{{$t}} {{$.Os}} {{end}}", "t:1 linux u:2 linux "),
        ("{{range $k, $v := .Config.ExposedPorts}}{{$k}}={{$v}} {{end}}", "53/udp={} 80/tcp={} "),
        (
            "{{range $n, $c := .NetworkSettings.Networks}}{{$n}}:{{$c.IPAddress}} {{end}}",
            "a_net:10.0.0.2 bridge:172.17.0.2 ",
        ),
        ("{{range .RepoDigests}}x{{else}}none{{end}}", "none"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{range $i := 9000000000000000000}}{{if eq $i 2}}{{break}}{{end}}{{$i}}{{end}}", "01"),
        (
            "{{range $i := 5}}{{if eq $i 1}}{{continue}}{{end}}{{if gt $i 3}}{{break}}{{end}}{{$i}}{{end}}",
            "023",
        ),
        (
            "{{range $p, $b := .NetworkSettings.Ports}}{{$p}}{{range $b}}->{{.HostPort}}{{end}} {{end}}",
            "53/udp 80/tcp->3000 ",
        ),
        ("{{with .Config}}{{.Cmd}}{{end}}{{with .Config.User}}x{{else}}no user{{end}}", "[sh]no user"),
        ("{{with $x := .Os}}{{$x}}{{.}}{{end}}", "linuxlinux"),
        ("{{with .Config.User}}{{else with .Os}}{{.}}{{end}}", "linux"),
        ("{{define \"x\"}}[{{.}}]{{end}}{{template \"x\" .Os}}{{template \"x\" 3}}", "[linux][3]"),
        ("{{block \"x\" .Os}}<{{.}}>{{end}}", "<linux>"),
    ]);
    fails(&[
        ("{{range .Os}}{{end}}", ":1:8: executing \"\" at <.Os>: range can't iterate over linux"),
        ("{{template \"y\"}}", ":1:11: executing \"\" at <{{template \"y\"}}>: template \"y\" not defined"),
        (
            "{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}",
            ":1:25: executing \"\" at <{{template \"x\"}}>: exceeded maximum template depth (100)",
        ),
    ]);
}

#[test]
fn variables() {
    prints(&[
        ("{{$x := 3}}{{$x}} {{$x = 4}}{{$x}}", "3 4"),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{$x := 3}}{{end}}{{$x}}", "2"),
        ("{{$last := \"\"}}{{range .RepoTags}}{{$last = .}}{{end}}{{$last}}", "u:2"),
        ("{{$c := .Config}}{{$c.Cmd}}", "[sh]"),
    ]);
}

#[test]
fn trimming_and_comments() {
    prints(&[
        ("a {{- /* c */ -}} b", "ab"),
        ("a {{- .Os -}} b", "alinuxb"),
        ("a\n{{- range .RepoTags }}\n{{.}}\n{{- end}}\n", "a\nt:1\nu:2\n"),
        ("{{/* note */}}x", "x"),
        ("{{.Os }}{{ .Os}}", "linuxlinux"),
    ]);
}

#[test]
fn functions() {
    prints(&[
        (
            "{{json .Config.Labels}} {{json .RepoTags}} {{json .Os}} {{json 5}}",
            "{\"a.b\":\"c\"} [\"t:1\",\"u:2\"] \"linux\" 5",
        ),
        (
            "{{json .Config.Healthcheck}}",
            "{\"Test\":[\"CMD-SHELL\",\"test -e /x\"],\"Interval\":5000000000,\"Timeout\":2000000000,\"Retries\":4}",
        ),
        ("{{json .State.Health}}", "null"),
        (
            "{{join .RepoTags \", \"}} {{split \"a,b\" \",\"}} {{join (split \"a b\" \" \") \"+\"}}",
            "t:1, u:2 [a b] a+b",
        ),
        ("{{upper .Os}} {{lower \"ABC\"}} {{title \"ab cd\"}}", "LINUX abc Ab Cd"),
        ("{{pad .Os 1 2}}|{{pad \"\" 1 2}}|{{truncate .Os 3}}|{{truncate .Os 30}}", " linux  ||lin|linux"),
        ("{{len .RepoTags}} {{len .Config.Labels}} {{len .Os}} {{.Config.Labels | json | len}}", "2 1 5 11"),
        ("{{index .RepoTags 1}} {{index .Config.Labels \"a.b\"}}", "u:2 c"),
        ("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "3000"),
        (
            "{{(index .NetworkSettings.Ports \"80/tcp\" 0).HostPort}} {{index .GraphDriver.Data \"UpperDir\" 1}}",
            "3000 117",
        ),
        (
            "{{slice .Os 1}} {{slice .Os 1 3}} {{slice .RepoTags 1}} {{with $x := .Id}}{{slice $x 0 8}}{{end}}",
            "inux in [u:2] sha256:e",
        ),
        (
            "{{eq .Os \"a\" \"linux\"}} {{ne 1 2}} {{lt 1 2}} {{le 2 2}} {{gt .Size 5}} {{ge \"a\" \"b\"}}",
            "true true true true true false",
        ),
        ("{{eq .State.ExitCode 0}} {{eq .State.Health nil}}", "true true"),
        ("{{and 1 0 2}} {{or 0 \"\" \"x\"}} {{not 1}} {{and 1 2}}", "0 x false 2"),
        ("{{or .Os .Nothing}} {{and .Config.User .Nothing}}|", "linux |"),
        ("{{.Os | upper | printf \"%s-%s\" \"a\"}}", "a-LINUX"),
        ("{{print 1 2 \"a\" \"b\" 3}} {{println 1 \"a\"}}.", "1 2ab3 1 a\n."),
        (
            "{{`raw\\n`}} {{\"tab\\t\"}}. {{'a'}} {{1e3}} {{0x10}} {{1.5}} {{1e30}}",
            "raw\\n tab\t. 97 1000 16 1.5 1e+30",
        ),
        ("{{ .Os | }}", "linux"),
    ]);
    fails(&[
        (
            "{{index .RepoTags 5}}",
            ":1:2: executing \"\" at <index .RepoTags 5>: error calling index: index out of range: 5",
        ),
        (
            "{{index nil 5}}",
            ":1:2: executing \"\" at <index nil 5>: error calling index: index of untyped nil",
        ),
        (
            "{{index .Config.Env \"a\"}}",
            ":1:2: executing \"\" at <index .Config.Env \"a\">: error calling index: cannot index slice/array with type string",
        ),
        ("{{len 3}}", ":1:2: executing \"\" at <len 3>: error calling len: len of type int"),
        (
            "{{eq 1 \"a\"}}",
            ":1:2: executing \"\" at <eq 1 \"a\">: error calling eq: incompatible types for comparison",
        ),
        (
            "{{lt 1 \"a\"}}",
            ":1:2: executing \"\" at <lt 1 \"a\">: error calling lt: incompatible types for comparison",
        ),
        (
            "{{slice \"abc\" 5}}",
            ":1:2: executing \"\" at <slice \"abc\" 5>: error calling slice: index out of range: 5",
        ),
        (
            "{{.RepoTags \"a\"}}",
            ":1:2: executing \"\" at <.RepoTags>: RepoTags is not a method but has arguments",
        ),
        ("{{\"a\" \"b\"}}", ":1:2: executing \"\" at <\"a\">: can't give argument to non-function \"a\""),
        ("{{nil}}", ":1:2: executing \"\" at <nil>: nil is not a command"),
        ("{{upper 3}}", ":1:2: executing \"\" at <upper 3>: wrong type for value; expected string; got int"),
        ("{{upper}}", ":1:2: executing \"\" at <upper>: wrong number of args for upper: want 1 got 0"),
    ]);
}

#[test]
fn printf() {
    prints(&[
        ("{{printf \"%d %s %v %T\" \"a\" 5 nil 5}}", "%!d(string=a) %!s(int=5) <nil> int"),
        ("{{printf \"%d\"}}|{{printf \"a\" 1}}", "%!d(MISSING)|a%!(EXTRA int=1)"),
        (
            "{{printf \"%5d|%-5d|%05d|%x|%X|%q|%5.2f|%+d|%t|%c|%8s|%-8s|%.2s\" 5 5 5 255 \"hi\" \"q\" 3.14159 5 true 65 \"r\" \"l\" \"cut\"}}",
            "    5|5    |00005|ff|6869|\"q\"| 3.14|+5|true|A|       r|l       |cu",
        ),
        (
            "{{printf \"%v %+v %#v %s\" .Config.Cmd .Config.Labels .Config.Cmd .Config.Cmd}}",
            "[sh] map[a.b:c] []string{\"sh\"} [sh]",
        ),
        ("{{printf \"%*d|%-*d|%.*f\" 4 1 4 2 1 2.55}}", "   1|2   |2.5"),
        ("{{printf \"%[2]s %[1]s %%\" \"a\" \"b\"}}", "b a %"),
        ("{{printf \"%[5]s\" \"a\"}} {{printf \"%\"}}", "%!s(BADINDEX) %!(NOVERB)"),
        ("{{printf \"%s %d\" .Config.Healthcheck.Interval .Config.Healthcheck.Interval}}", "5s 5000000000"),
        ("{{printf \"%05d %6.2e %g %08.3f\" -3 1234.5 0.5 -3.14159}}", "-0003 1.23e+03 0.5 -003.142"),
        ("{{printf \"%#x %o %b %U\" 255 8 5 65}}", "0xff 10 101 U+0041"),
        ("{{printf \"%q %x\" \"a\\n\\\"\" \"é\"}}", "\"a\\n\\\"\" c3a9"),
        ("{{printf \"%99999999999999999999d\" 1}}", "%!(BADWIDTH)1"),
    ]);
}

#[test]
fn faults_name_their_line() {
    fails(&[
        ("{{foo}}", ":1: function \"foo\" not defined"),
        ("{{.Os | foo}}", ":1: function \"foo\" not defined"),
        ("{{html .Os}}", ":1: function \"html\" is not supported"),
        ("{{.A", ":1: unclosed action"),
        ("\n\n{{.A", ":3: unclosed action"),
        ("{{if}}", ":1: missing value for if"),
        ("{{}}", ":1: missing value for command"),
        ("{{end}}", ":1: unexpected {{end}}"),
        ("{{else}}", ":1: unexpected {{else}}"),
        ("{{$x}}", ":1: undefined variable \"$x\""),
        ("{{range .A}}{{$y := 1}}{{end}}{{$y}}", ":1: undefined variable \"$y\""),
        ("{{range .Config.Env}}x{{else}}", ":1: unexpected EOF"),
        ("{{\"a}}", ":1: unterminated quoted string"),
        ("{{break}}", ":1: {{break}} outside {{range}}"),
        ("{{1 | 2}}", ":1: non executable command in pipeline stage 2"),
        ("{{(.Os}}", ":1: unclosed left paren"),
        ("{{.Os)}}", ":1: unexpected right paren"),
        ("{{\"a\".B}}", ":1: unexpected . after term \"\\\"a\\\"\""),
    ]);
}

#[test]
fn nesting_has_a_limit_and_no_stack_overflow() {
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(50_000), ")".repeat(50_000));
    assert!(render(&deep).unwrap_err().contains("nested deeper"));
    let deep = "{{if true}}".repeat(50_000);
    assert!(render(&deep).unwrap_err().contains("nested deeper"));
    let deep = "{{if true}}a{{else ".repeat(50_000);
    assert!(render(&deep).is_err());
}

/// Words of the language, for what a person would never put together.
const WORDS: &[&str] = &[
    "{{",
    "}}",
    "{{-",
    "-}}",
    " ",
    "\n",
    ".",
    ".Config",
    ".Mounts",
    ".Size",
    ".Os",
    "$",
    "$x",
    ":=",
    "=",
    ",",
    "|",
    "(",
    ")",
    "if",
    "else",
    "end",
    "range",
    "with",
    "define",
    "template",
    "block",
    "break",
    "continue",
    "nil",
    "true",
    "\"a\"",
    "`b`",
    "'c'",
    "1",
    "-2",
    "0x",
    "1.5e",
    "9e99",
    "é",
    "\"\\x\"",
    "/*",
    "*/",
    "index",
    "len",
    "slice",
    "printf",
    "\"%d%s%*.*f%[3]v\"",
    "json",
    "eq",
    "lt",
    "and",
    "not",
    "join",
    "split",
    "pad",
    "truncate",
    "print",
    "title",
    "foo",
];

#[test]
fn no_text_makes_it_panic() {
    let image = image();
    // A small generator of its own (xorshift), so that every run tries the same.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut rendered = 0;
    for _ in 0..60_000 {
        let length = 1 + next(12);
        let mut source = String::from("{{");
        for _ in 0..length {
            source.push_str(WORDS[next(WORDS.len())]);
            if next(2) == 0 {
                source.push(' ');
            }
        }
        source.push_str("}}");
        let result = Template::parse(&source).and_then(|template| template.render(&image));
        rendered += usize::from(result.is_ok());
        if let Err(message) = result {
            assert!(message.starts_with("template parsing error: template: :"), "{source}: {message}");
        }
    }
    assert!(rendered > 100, "only {rendered} were templates at all");
}
