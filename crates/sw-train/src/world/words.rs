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

/// What the world knows for good: an aim, and the one tool that serves it.
pub const TOOLS: [(&str, &str); 28] = [
    ("cut the bread", "knife"),
    ("open the door", "key"),
    ("sweep the floor", "broom"),
    ("dig a hole", "spade"),
    ("write a note", "pen"),
    ("sew the shirt", "needle"),
    ("light the room", "lamp"),
    ("boil the water", "kettle"),
    ("hit the nail", "hammer"),
    ("cut the plank", "saw"),
    ("climb the wall", "ladder"),
    ("catch a fish", "net"),
    ("row the boat", "oar"),
    ("paint the fence", "brush"),
    ("dry the plates", "towel"),
    ("tie the sack", "rope"),
    ("eat the soup", "spoon"),
    ("carry the water", "bucket"),
    ("wash the hands", "soap"),
    ("stay dry in the rain", "umbrella"),
    ("tell the time", "clock"),
    ("cut the paper", "scissors"),
    ("turn the bolt", "wrench"),
    ("gather the leaves", "rake"),
    ("weigh the flour", "scale"),
    ("pour the milk", "jug"),
    ("sit at the table", "chair"),
    ("look at the stars", "telescope"),
];

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
