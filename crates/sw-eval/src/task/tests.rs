use std::{path::Path, sync::Arc};

use serde_json::{Value as Json, json};

use super::{hellaswag, wikitext, *};
use crate::{metric::Value, model::Score};

fn doc(fields: Json) -> Doc {
    let Json::Object(fields) = fields else {
        panic!("an object")
    };
    Doc::new(fields, Arc::from(Path::new("made-up.parquet")), 7)
}

fn item(task: &str, fields: Json) -> Result<Item> {
    match Task::named(task)?.kind {
        Kind::Items { prepare, item } => {
            let doc = doc(fields);
            item(&match prepare {
                Prepare::Each(prepare) => prepare(doc)?,
                Prepare::All(prepare) => prepare(vec![doc])?.remove(0),
            })
        }
        Kind::Windows(_) => panic!("{task} has no items"),
    }
}

fn asked(task: &str, fields: Json) -> Vec<(String, String)> {
    let pair = |r| match r {
        Request::Continuation {
            context,
            continuation,
        } => (context, continuation),
        other => panic!("{other:?}"),
    };
    item(task, fields)
        .unwrap()
        .requests("")
        .into_iter()
        .map(pair)
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(a, b)| (a.to_string(), b.to_string()))
        .collect()
}

#[test]
fn arc() {
    let fields = json!({"id": "1", "question": "Why?", "choices": {"text": ["a b", "c"], "label": ["1", "2"]}, "answerKey": "2"});
    for task in ["arc_easy", "arc_challenge"] {
        let q = "Question: Why?\nAnswer:";
        assert_eq!(
            asked(task, fields.clone()),
            pairs(&[(q, " a b"), (q, " c")])
        );
        assert_eq!(item(task, fields.clone()).unwrap().target(), "1");
    }
}

#[test]
fn openbookqa_and_boolq() {
    let fields = json!({"question_stem": "The sun", "choices": {"text": ["is", "was"], "label": ["A", "B"]}, "answerKey": " B"});
    assert_eq!(
        asked("openbookqa", fields.clone()),
        pairs(&[("The sun", " is"), ("The sun", " was")])
    );
    assert_eq!(item("openbookqa", fields).unwrap().target(), "1");
    let fields = json!({"passage": "P.", "question": "is it", "idx": 0, "label": 1});
    let q = "P.\nQuestion: is it?\nAnswer:";
    assert_eq!(
        asked("boolq", fields.clone()),
        pairs(&[(q, " no"), (q, " yes")])
    );
    assert_eq!(item("boolq", fields).unwrap().target(), "1");
}

#[test]
fn piqa_and_sciq() {
    let fields = json!({"goal": "G", "sol1": "one", "sol2": "two", "label": 0});
    let q = "Question: G\nAnswer:";
    assert_eq!(asked("piqa", fields), pairs(&[(q, " one"), (q, " two")]));
    let sciq = |support: &str| json!({"question": "Q?", "distractor3": "d3", "distractor1": "d1", "distractor2": "d2", "correct_answer": "c", "support": support});
    let q = "\nQuestion: Q?\nAnswer:";
    assert_eq!(
        asked("sciq", sciq("")),
        pairs(&[(q, " d1"), (q, " d2"), (q, " d3"), (q, " c")])
    );
    assert_eq!(
        asked("sciq", sciq(" \n S. "))[3],
        ("S. \nQuestion: Q?\nAnswer:".into(), " c".into())
    );
    assert_eq!(item("sciq", sciq("")).unwrap().target(), "3");
}

#[test]
fn winogrande_scores_what_follows_the_gap() {
    let fields = json!({"sentence": "Ann thanked Bo because _ helped. ", "option1": "Ann", "option2": "Bo", "answer": "2"});
    let found = asked("winogrande", fields.clone());
    assert_eq!(
        found,
        pairs(&[
            ("Ann thanked Bo because Ann", " helped."),
            ("Ann thanked Bo because Bo", " helped.")
        ])
    );
    let item = item("winogrande", fields).unwrap();
    assert_eq!(
        (item.target().as_str(), item.example().as_str()),
        ("helped.", "Ann thanked Bo because Bo helped.\n\n")
    );
}

#[test]
fn lambada_asks_for_the_last_word() {
    let found = asked("lambada_openai", json!({"text": "one two  three"}));
    assert_eq!(found, pairs(&[("one two ", " three")]));
    assert_eq!(
        asked("lambada_openai", json!({"text": "one"})),
        pairs(&[("", " one")])
    );
}

#[test]
fn hellaswag_is_cleaned_in_order() {
    for (text, cleaned) in [
        ("  a [title] b  ", "a.  b".replace("  ", " ").as_str()), // ". " then " b": two spaces become one
        ("[header] How [step] to", " How to"),
        ("a [x] [y] b", "a  b"), // three spaces: one pass leaves two
        ("a [x\ny] b [z]", "a [x\ny] b "),
        ("a [b [c] d]", "a d]"),
        ("a ] b [", "a ] b ["),
        ("é [ü] à", "é à"),
    ] {
        assert_eq!(hellaswag::clean(text), cleaned, "{text:?}");
    }
    let fields = json!({"activity_label": "Run", "ctx_a": "A man", "ctx_b": "THE man [title] Runs", "endings": ["x  y", " z"], "label": "1"});
    assert_eq!(
        asked("hellaswag", fields.clone()),
        pairs(&[
            ("Run: A man The man. runs", " x y"),
            ("Run: A man The man. runs", " z")
        ])
    );
    let fields = json!({"activity_label": "Run", "ctx_a": "A man", "ctx_b": "", "endings": ["x"], "label": "0"});
    assert_eq!(asked("hellaswag", fields)[0].0, "Run: A man");
}

#[test]
fn pages_begin_at_title_lines() {
    let rows = [
        "",
        " = One = \n",
        "",
        " Text . \n",
        " = = Part = = \n",
        " More \n",
        "",
        "",
        " = Two = \n",
        " End \n",
    ];
    let rows = rows.map(|r| doc(json!({"text": r}))).to_vec();
    let pages = wikitext::pages(rows).unwrap();
    let texts: Vec<_> = pages.iter().map(|p| p.text("page").unwrap()).collect();
    assert_eq!(
        texts,
        [
            " = One = \n \n Text . \n = = Part = = \n More \n \n ",
            " = Two = \n End \n"
        ]
    );
}

#[test]
fn detokenization_step_by_step() {
    // Expected values from the harness's own function.
    for (page, text) in DETOKENIZED {
        assert_eq!(wikitext::detokenize(page), *text, "{page:?}");
    }
}

const DETOKENIZED: &[(&str, &str)] = &[
    (
        "the dogs ' tails , a 's b . \n = = Part = = \n",
        "the dogs'tails, a's b.\n== Part ==\n",
    ),
    ("( a ( b ) c ) and [ x ] { y }", "(a ( b) c ) and [x] {y}"),
    (
        "he said \" hello there \" , \" odd",
        "he said \"hello there\", \" odd",
    ),
    (
        "3 @-@ 4 , 1 @,@ 000 @.@ 5 : x ; y ! z ? w",
        "3-4, 1,000.5: x; y! z? w",
    ),
    ("/' 5/' 6/ end", "/'[0-9]/' 6/ end"),
    ("' a ' b ' c", "'a' b ' c"),
    ("20 ° N and 5 N \n x", "20°N and 5 N\nx"),
    ("( a\n) = = = = x = = =  = =", "(a) ==== x ===  =="),
    ("\" \" ( ) '  '", "\"\" () ''"),
    ("it 's James 's s 'x /' 9/", "it's James's s'x /'[0-9]/"),
];

#[test]
fn answers_are_measured() {
    let scores = |x: &[f64]| {
        x.iter()
            .map(|&log_prob| Score {
                log_prob,
                greedy: log_prob > -1.0,
            })
            .collect::<Vec<_>>()
    };
    let one = |x: f64| Value::One(x);
    let choice = Item::Choice {
        context: "q".into(),
        choices: vec!["ab".into(), "éé".into(), "a".into()],
        gold: 1,
    };
    // Characters: 2, 2, 1; bytes: 2, 4, 1.
    let answers = scores(&[-2.0, -2.0, -1.5]);
    assert_eq!(choice.measure(Metric::Acc, &answers), one(0.0)); // -1.5 is the largest
    assert_eq!(choice.measure(Metric::AccNorm, &answers), one(0.0)); // -1, -1, -1.5: a tie goes to the first
    assert_eq!(choice.measure(Metric::AccBytes, &answers), one(1.0)); // -1, -0.5, -1.5
    let completion = Item::Completion {
        context: "q".into(),
        continuation: " a".into(),
    };
    assert_eq!(completion.measure(Metric::Acc, &scores(&[-0.5])), one(1.0));
    assert_eq!(
        completion.measure(Metric::Perplexity, &scores(&[-0.5])),
        one(-0.5)
    );
    let window = Item::Window(vec![1, 2, 3]);
    assert_eq!(
        window.measure(Metric::Perplexity, &scores(&[-3.0])),
        one(-1.5)
    );
    let page = Item::Page {
        text: "a b".into(),
        words: 2,
        bytes: 3,
    };
    assert_eq!(
        page.measure(Metric::WordPerplexity, &scores(&[-3.0])),
        Value::Weighted(-3.0, 2.0)
    );
}

#[test]
fn bad_documents_get_one_clear_line() {
    let arc = |key: &str| json!({"question": "Why?", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": key});
    for (task, fields, words) in [
        (
            "arc_easy",
            arc("E"),
            vec!["made-up.parquet", "row 7", "answerKey", "\"E\""],
        ),
        (
            "arc_easy",
            json!({"id": 1, "query": "x"}),
            vec!["no column \"question\"", "the file has: id, query"],
        ),
        (
            "piqa",
            json!({"goal": "G", "sol1": "a", "sol2": "b", "label": 2}),
            vec!["gold index 2 is outside the 2 choices"],
        ),
        (
            "piqa",
            json!({"goal": "G", "sol1": "a", "sol2": "b", "label": -1}),
            vec!["gold index -1"],
        ),
        (
            "piqa",
            json!({"goal": null, "sol1": "a", "sol2": "b", "label": 0}),
            vec!["\"goal\"", "expected text, found null"],
        ),
        (
            "hellaswag",
            json!({"activity_label": "R", "ctx_a": "a", "ctx_b": "b", "endings": ["x"], "label": ""}),
            vec!["expected an integer"],
        ),
        (
            "winogrande",
            json!({"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"}),
            vec!["no gap"],
        ),
        (
            "winogrande",
            json!({"sentence": "a _ b", "option1": "a", "option2": "b", "answer": "3"}),
            vec!["gold index 2"],
        ),
    ] {
        let error = item(task, fields).unwrap_err().to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{task}: {error}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn unknown_tasks_name_the_nearest() {
    let error = Task::named("arc_eazy").unwrap_err().to_string();
    assert!(
        error.contains("unknown task \"arc_eazy\"; did you mean \"arc_easy\"?"),
        "{error}"
    );
    assert!(
        Task::named("Lambada")
            .unwrap_err()
            .to_string()
            .contains("lambada_openai")
    );
    assert!(
        !Task::named("zzzzzzzzzzzz")
            .unwrap_err()
            .to_string()
            .contains("did you mean")
    );
    assert_eq!(
        TASKS.len(),
        TASKS
            .iter()
            .map(|t| t.name)
            .collect::<std::collections::HashSet<_>>()
            .len()
    );
}
