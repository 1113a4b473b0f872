//! The vocabulary of the micro-world: the only foreign matter in it, and all of it plain English words.

/// First names. The last eight are rare in the in-world text and common in the shifted one.
pub const NAMES: [&str; 32] = [
    "Tom", "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Iris", "Jack",
    "Kate", "Leo", "Mary", "Noah", "Olga", "Peter", "Rosa", "Sam", "Thea", "Victor", "Wanda",
    "Abel", "Bella", "Carl", "Dora", "Eric", "Fiona", "George", "Helen", "Ivan", "Julia",
];

/// Family names; which goes with which first name is another matter in every document.
pub const FAMILIES: [&str; 24] = [
    "Baker", "Miller", "Smith", "Fisher", "Cook", "Mason", "Carter", "Turner", "Hunter", "Weaver",
    "Potter", "Cooper", "Taylor", "Archer", "Brewer", "Farmer", "Porter", "Gardner", "Wood",
    "Hill", "Stone", "Brook", "Field", "Lake",
];

/// Small things that a person can have and a container can hold.
pub const THINGS: [&str; 32] = [
    "ball", "cup", "coin", "book", "hat", "bell", "map", "ring", "stone", "apple", "pear", "doll",
    "drum", "flute", "kite", "mask", "shell", "scarf", "plate", "candle", "watch", "feather",
    "letter", "button", "whistle", "mirror", "ticket", "pebble", "ribbon", "acorn", "marble",
    "medal",
];

/// Where people are.
pub const PLACES: [&str; 20] = [
    "kitchen", "garden", "barn", "park", "school", "market", "forest", "library", "harbour",
    "tower", "cellar", "attic", "church", "stable", "bakery", "meadow", "castle", "museum",
    "office", "station",
];

/// Where things are kept.
pub const CONTAINERS: [&str; 16] = [
    "box", "bag", "basket", "drawer", "chest", "jar", "barrel", "crate", "sack", "trunk", "pocket",
    "cabinet", "case", "tin", "wagon", "pot",
];

/// Colours.
pub const COLOURS: [&str; 16] = [
    "red", "blue", "green", "yellow", "white", "black", "brown", "grey", "pink", "orange",
    "purple", "golden", "violet", "scarlet", "amber", "beige",
];

/// What the world knows for good: an aim, the one tool that serves it, and the place where that tool is kept.
pub const TOOLS: [Tool; 28] = [
    Tool::new("cut the bread", "knife", "kitchen"),
    Tool::new("open the door", "key", "office"),
    Tool::new("sweep the floor", "broom", "cellar"),
    Tool::new("dig a hole", "spade", "garden"),
    Tool::new("write a note", "pen", "school"),
    Tool::new("sew the shirt", "needle", "attic"),
    Tool::new("light the room", "lamp", "tower"),
    Tool::new("boil the water", "kettle", "kitchen"),
    Tool::new("hit the nail", "hammer", "barn"),
    Tool::new("cut the plank", "saw", "forest"),
    Tool::new("climb the wall", "ladder", "castle"),
    Tool::new("catch a fish", "net", "harbour"),
    Tool::new("row the boat", "oar", "harbour"),
    Tool::new("paint the fence", "brush", "museum"),
    Tool::new("dry the plates", "towel", "kitchen"),
    Tool::new("tie the sack", "rope", "stable"),
    Tool::new("eat the soup", "spoon", "bakery"),
    Tool::new("carry the water", "bucket", "stable"),
    Tool::new("wash the hands", "soap", "station"),
    Tool::new("stay dry in the rain", "umbrella", "station"),
    Tool::new("tell the time", "clock", "church"),
    Tool::new("cut the paper", "scissors", "school"),
    Tool::new("turn the bolt", "wrench", "barn"),
    Tool::new("gather the leaves", "rake", "park"),
    Tool::new("weigh the flour", "scale", "bakery"),
    Tool::new("pour the milk", "jug", "market"),
    Tool::new("sit at the table", "chair", "library"),
    Tool::new("look at the stars", "telescope", "meadow"),
];

/// An aim, what serves it, and where that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// As in "to cut the bread".
    pub aim: &'static str,
    /// The one thing that serves it.
    pub name: &'static str,
    /// Where it is kept.
    pub place: &'static str,
}

impl Tool {
    const fn new(aim: &'static str, name: &'static str, place: &'static str) -> Self {
        Self { aim, name, place }
    }
}

/// What places are like.
pub const AGES: [&str; 16] = [
    "old", "new", "cold", "warm", "dark", "bright", "small", "large", "quiet", "noisy", "dusty",
    "clean", "empty", "famous", "narrow", "lonely",
];

/// What containers are like.
pub const MAKES: [&str; 16] = [
    "wooden", "iron", "paper", "leather", "copper", "silver", "plastic", "glass", "heavy", "light",
    "round", "square", "broken", "painted", "cheap", "fine",
];
