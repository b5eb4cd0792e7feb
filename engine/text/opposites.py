"""Tables of words for the duplicate and conflict rule: what denies, what excludes what, what has one value.

Words stand in the form in which people write them; `engine.text.claims` compares their stems. Adding a line here is
all that a new rule of these sorts needs.
"""

from __future__ import annotations

from engine.text.tables import word_list, word_set

NEGATORS = word_set("""
    not no never without neither nor none nobody nothing nowhere hardly barely
""")

AUXILIARIES = frozenset(["do", "does", "did"])
"""They stand beside `not` and say nothing by themselves."""

OPPOSITES = (
    ("before", "after"),
    ("more", "less fewer"),
    ("most", "least fewest"),
    ("always", "sometimes", "seldom rarely", "never"),
    ("all every everyone everybody", "some someone somebody", "any"),
    ("both", "either"),
    ("and", "or"),
    ("must shall", "may might"),
    ("enable activate", "disable deactivate"),
    ("enabled active", "disabled inactive"),
    ("on", "off"),
    ("left", "right"),
    ("true", "false"),
    ("yes", "no"),
    ("with", "without"),
    ("up", "down"),
    ("above over", "below under"),
    ("inside", "outside"),
    ("first", "last"),
    ("early earlier", "late later"),
    ("start begin", "stop end finish"),
    ("open", "closed close shut"),
    ("allow permit", "deny forbid prohibit"),
    ("allowed permitted", "denied forbidden prohibited"),
    ("accept accepted approve approved", "reject rejected refuse refused decline declined"),
    ("include", "exclude"),
    ("increase grow rise", "decrease shrink fall drop"),
    ("add", "remove delete"),
    ("buy", "sell"),
    ("win won", "lose lost"),
    ("pass passed", "fail failed"),
    ("succeed", "fail"),
    ("like love enjoy adore", "dislike hate detest loathe"),
    ("likes loves enjoys adores", "dislikes hates detests loathes"),
    ("arrive", "leave depart"),
    ("push", "pull"),
    ("import", "export"),
    ("read", "write"),
    ("public", "private"),
    ("required mandatory", "optional"),
    ("light", "dark"),
    ("hot warm", "cold cool"),
    ("big large", "small little"),
    ("high", "low"),
    ("long", "short"),
    ("fast", "slow"),
    ("old", "new"),
    ("good", "bad"),
    ("better", "worse"),
    ("best", "worst"),
    ("safe", "dangerous"),
    ("alive", "dead"),
    ("male", "female"),
    ("single", "married", "divorced", "widowed", "engaged"),
    ("vegetarian", "vegan", "omnivore"),
    ("north northern", "south southern", "east eastern", "west western"),
    ("morning", "afternoon", "evening", "night"),
    ("spring", "summer", "autumn fall", "winter"),
    ("daily", "weekly", "monthly", "yearly annually", "hourly"),
    ("tabs", "spaces"),
    ("maximum max", "minimum min"),
    ("upper", "lower"),
    ("synchronous sync", "asynchronous async"),
    ("positive", "negative"),
    ("online", "offline"),
    ("present", "absent"),
    ("guilty", "innocent"),
    ("correct", "incorrect wrong"),
    ("default", "custom"),
)
"""Each line: sides that exclude each other in the same place of the same sentence."""

PREFIXES_OF_DENIAL = ("un", "non", "non-", "dis", "in", "im", "ir", "il", "de")
PREFIX_LOOKALIKES = word_set("""
    inform indeed income increase impress import disable decode display discover
""")
"""Words that begin like a denial of another word, and are not."""

VALUE_VERBS = {
    "be": "am is are was were be been being = : equal equals become becomes became remain remains",
    "set": "set sets changed changes",
    "residence": "live lives lived living reside resides resided moved move moves relocated relocate relocates based",
    "work": "work works worked working employed joined joins",
    "cost": "cost costs",
    "measure": "weigh weighs weighed measure measures measured",
    "schedule": "scheduled rescheduled postponed happens takes due",
    "begin": "start starts started begin begins began",
    "finish": "end ends ended finish finishes finished expire expires expired",
    "name": "named called",
    "listen": "listen listens listening",
    "run": "runs run running",
    "switch": "switched migrated",
    "marriage": "married",
    "prefer": "prefer prefers preferred",
}
"""Verbs whose subject has one value at a time, by the attribute that they give."""

OTHER_VERBS = word_set("""
    has have had having like likes liked love loves loved hate hates hated want wants wanted need needs needed
    use uses used owe owes owed own owns owned see sees saw meet meets met go goes went gone come comes came get
    gets got give gives gave take took taken make makes made buy buys bought sell sells sold eat eats ate drink
    drinks drank read reads write writes wrote say says said tell tells told know knows knew think thinks
    thought play plays played visit visits visited call calls call pay pays paid send sends sent bring brings
    brought keep keeps kept hold holds held can could will would should must may might shall do does did enable
    enables enabled disable disables disabled allow allows allowed require requires required support supports
    supported contain contains ship ships shipped release releases released arrive arrives arrived leave leaves
    left deploy deploys deployed earn earns earned study studies studied speak speaks spoke drive drives drove
    walk walks walked travel travels travelled returns return returned born died won lost found finish opened
    closed opens closes answers answered scored booked ordered uses connects connected expects expected serves
    served stores stored
""")
"""Verbs that may have many objects: they tell where a subject ends, and no more."""

ATTRIBUTES = word_set("""
    name nickname surname address birthday birthplace colour color capital port host hostname owner manager boss
    leader lead ceo cto president deadline price cost budget salary status version database language editor
    email phone number password city country hometown home employer job title role profession age height weight
    size temperature limit timeout url endpoint branch currency timezone zone diet partner wife husband spouse
    doctor dentist model framework license licence theme font layout mode format level priority date time day
""")
"""Nouns of which a thing has one."""

ATTRIBUTE_WORDS = word_set("""
    favourite favorite preferred default current primary main official only new
""")
POSSESSIVES = word_set("my our your his her its their")

NUMBER_WORDS = {
    word: value
    for value, word in enumerate(
        word_list("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
""")
    )
} | {
    word: 10 * value
    for value, word in enumerate(word_list("twenty thirty forty fifty sixty seventy eighty ninety"), start=2)
}
SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
ORDINAL_WORDS = {
    word: f"{value}{suffix}"
    for value, (word, suffix) in enumerate(
        (
            ("first", "st"),
            ("second", "nd"),
            ("third", "rd"),
            ("fourth", "th"),
            ("fifth", "th"),
            ("sixth", "th"),
            ("seventh", "th"),
            ("eighth", "th"),
            ("ninth", "th"),
            ("tenth", "th"),
        ),
        start=1,
    )
}

DATE_WORDS = word_set("""
    monday tuesday wednesday thursday friday saturday sunday january february march april may june july august
    september october november december today yesterday tomorrow tonight weekend morning afternoon evening night
    noon midnight spring summer autumn winter week month year jan feb mar apr jun jul aug sep sept oct nov dec
    mon tue wed thu fri sat sun mondays tuesdays wednesdays thursdays fridays saturdays sundays
""")

CASE_MATTERS = word_set("""
    us it who may march august polish turkey china apple will mark bill rose grace hope faith joy dean frank
    grant jack pat ray rob sue art iris ivy jade pearl ruby summer autumn dawn april june god mobile nice
    reading bath cork lima java swift rust go python ruby shell amazon target gap visa oracle slack teams word
    windows aids who or in me hi oh ok al ma pa de la co id
""")
"""Words that name somebody or something when capitalised inside a sentence, and something else when not."""
