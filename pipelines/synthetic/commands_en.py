"""English commands to a smart speaker: the rules and intents of the embedded corpus.

Names of people and bands are made up from common words: the vocabulary is closed, so that a sentence that
was never heard is a new combination of words that were. How to read a line: see grammar.py.
"""

from __future__ import annotations

from pipelines.synthetic.grammar import Grammar, Intent

RULES = {
    # Carrier phrases.
    "ask": "[please|can you|could you|will you]",
    "tell": "[tell me|can you tell me]",
    "end": "[please|now|thanks|for me]",
    # Slots.
    "artist": "<first> <last>|the <adjective> <animals>",
    "song": "(dancing|running|dreaming|waiting|falling) <where>|<adjective> (heart|river|dream)",
    "genre": "jazz|rock|blues|country|disco|opera|techno|reggae|hip hop|heavy metal",
    "city": "london|paris|berlin|madrid|tokyo|boston|chicago|dublin|toronto|sydney|new york|cape town",
    "date": "today|tomorrow|tonight|<weekday>|next <weekday>|this weekend|the <ordinal> of <month>|next week"
    "|tomorrow <part>|<weekday> <part>",
    "time": "<hour>|<hour> (o'clock|thirty|fifteen|forty five)|(half past|quarter past|quarter to) <hour>|noon|midnight"
    "|<hour> in the (morning|afternoon|evening)",
    "duration": "<count> (minutes|seconds|hours)|(an|one) hour|half an hour|(one|a) minute|an hour and a half",
    "interval": "<count> (minute|second|hour)|one (minute|hour)|half hour",
    "room": "kitchen|bedroom|bathroom|living room|hallway|garage|garden|office|basement|dining room",
    "device": "lights|lamp|light|desk lamp|floor lamp|ceiling light|spotlights",
    "color": "red|blue|green|yellow|orange|purple|white|warm white",
    "level": "<tens> percent|<tens> five percent|one hundred percent|maximum|minimum|half",
    "loudness": "level (one|two|three|four|five|six|seven|eight|nine|ten)|<tens> percent|maximum|half",
    "step": "<tens> percent|half",
    "topic": "sports|politics|business|technology|science|football|tennis|travel",
    "event": "birthday party|wedding|(team|school) meeting|(dentist|doctor) appointment|haircut|yoga class"
    "|piano lesson|job interview|(lunch|dinner|breakfast)|conference call",
    "task": "buy [some] (milk|bread|eggs|flowers|coffee|cheese)"
    "|(call|visit) <person>|pay the (rent|bills)|feed the (cat|dog|fish)|water the (plants|flowers|garden)"
    "|clean the (car|windows|kitchen|bathroom)|take out the trash|pick up the (kids|laundry)"
    "|book the (flight|hotel)|take my medicine",
    "person": "mom|dad|grandma|my (brother|sister)|<first>|<first> <last>",
    # Parts of slots.
    "first": "anna|clara|david|emma|frank|henry|martin|oscar",
    "last": "stone|winters|carter|foster|morgan|walker",
    "adjective": "silver|golden|quiet|electric",
    "animals": "foxes|tigers|strangers|sailors",
    "where": "in the rain|through the night|under the stars|with you|back home|by the sea",
    "weekday": "monday|tuesday|wednesday|thursday|friday|saturday|sunday",
    "part": "morning|afternoon|evening|night",
    "month": "january|february|march|april|may|june|july|august|september|october|november|december",
    "ordinal": "first|second|third|fourth|fifth|sixth|tenth|twelfth|twentieth",
    "hour": "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve",
    "count": "two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|twenty|thirty|forty|fifty|twenty five|ninety",
    "tens": "ten|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety",
    "dish": "pasta|pizza|rice|tea|eggs",
    "in_room": "(in|for) the {room}",
}

INTENTS = {
    "play_music": Intent(
        "music",
        (
            "<ask> play [some] {genre} [music] <end>",
            "<ask> (play|put on) {song} [by {artist}] [in the {room}]",
            "<ask> play (something|a song|the new album|music|the best songs) by {artist} <end>",
            "(i want to hear|let's hear|i'd like to hear) (some {genre}|{song}|{artist})",
            "<ask> (play|put on|start) some {genre} [music] in the {room}",
            "<ask> play {artist} [in the {room}] <end>",
        ),
        weight=3.5,
    ),
    "pause_music": Intent(
        "music", ("<ask> (pause|stop) (the|this|my) (music|song|track|album|playlist) [in the {room}] <end>",)
    ),
    "skip_song": Intent(
        "music",
        (
            "<ask> (skip|skip past) (this|the) (song|track|one) <end>",
            "<ask> (play|go to|jump to|skip to) the next (song|track|one) [in the {room}] <end>",
        ),
    ),
    "song_info": Intent(
        "music",
        (
            "<tell> (what's|what is) (this song|this track|the name of this song|playing) [in the {room}] [right now]?",
            "(who|which band) (sings|plays|wrote) (this song|this track|this album|{song})?",
            "<tell> what (song|album|track) is this [by {artist}]?",
        ),
    ),
    "like_song": Intent(
        "music",
        (
            "<ask> (save|add) this (song|track|album) to my [{genre}] (playlist|favorites) <end>",
            "i (love|really like|like) this (song|track|album) [by {artist}] [thanks]",
        ),
    ),
    "get_weather": Intent(
        "weather",
        (
            "<tell> (what's|what is) the (weather|forecast|temperature) [like] (in|for) {city} [{date}]?",
            "<tell> what will the (weather|temperature) be (in {city} [{date}]|{date} [in {city}])?",
            "(how's|how is) the weather (in {city} [{date}]|{date})?",
            "<ask> (give me|show me|read) the (weather|forecast|weather report) for ({city} [{date}]|{date})",
        ),
        weight=1.8,
    ),
    "check_rain": Intent(
        "weather",
        (
            "(will it|is it going to) (rain|snow|be (sunny|windy|cold|warm|cloudy)) [in {city}] {date}?",
            "(do i|will i) need (an umbrella|a coat|a jacket) ({date} [in {city}]|in {city})?",
        ),
        weight=1.5,
    ),
    "get_news": Intent(
        "news",
        (
            "<tell> (what's|what is) (new|happening|going on) in {topic} [today]?",
            "<ask> (read|play|give me|tell me) the [latest|morning|evening|local] {topic} (news|headlines) <end>",
            "<tell> the [latest] (news|headlines) (about|on) {topic} [from {city}] <end>",
            "<ask> (read|play|give me) the (latest|local|morning|evening) (news|headlines) from {city} <end>",
        ),
        weight=1.5,
    ),
    "stop_news": Intent(
        "news",
        (
            "<ask> (stop|pause|skip|cancel|end) (reading|playing) the [latest|{topic}] (news|headlines) <end>",
            "(that's|that is) enough {topic} (news|headlines) [for today|for now|thanks]",
        ),
    ),
    "set_alarm": Intent(
        "alarm",
        (
            "<ask> set (an|my|the|another) alarm for {time} [{date}] <end>",
            "<ask> wake me [up] at {time} [{date}]",
            "<ask> (wake me up|set an alarm) {date} at {time}",
            "i (need|have|want) to (wake up|get up) at {time} [{date}]",
        ),
        weight=1.8,
    ),
    "cancel_alarm": Intent(
        "alarm",
        (
            "<ask> (cancel|delete|remove|turn off|switch off) (my|the) {time} alarm [{date}] <end>",
            "<ask> (cancel|delete|remove|turn off) (my|the) alarm (for|at) {time} <end>",
            "<ask> (cancel|delete|remove) (my alarm|the alarm|all alarms) (for|on) {date:weekday} <end>",
        ),
    ),
    "list_alarms": Intent(
        "alarm",
        (
            "<tell> (what|which) alarms (do i have|are set|are on) [for {date}]?",
            "(when is|what time is) my (next|first) alarm [{date}]?",
            "(do i have|are there|is there) (any alarms|an alarm) (set for|for) ({date}|{time})?",
        ),
    ),
    "start_timer": Intent(
        "timer",
        (
            "<ask> (set|start) (a|the|another) timer for {duration} <end>",
            "<ask> (set|start) (a|another) {duration:interval} timer [in the {room}] <end>",
            "<ask> (time|count down) {duration} [for the <dish>] <end>",
        ),
        weight=1.5,
    ),
    "cancel_timer": Intent(
        "timer",
        (
            "<ask> (cancel|stop|delete|end|reset) (the|my|this) [{duration:interval}] timer [in the {room}] <end>",
            "<ask> (cancel|stop|delete) the timer for the <dish> <end>",
        ),
    ),
    "timer_left": Intent(
        "timer",
        (
            "<tell> (how much time is|how many minutes are) left on (the|my) [{duration:interval}|<dish>] timer?",
            "how (much longer|long) (on|for|until) (the|my) [{duration:interval}|<dish>] timer [in the {room}]?",
        ),
    ),
    "light_on": Intent(
        "light",
        (
            "<ask> (turn|switch) on the {device} [in the {room}] <end>",
            "<ask> (turn|switch) the [{room}] {device} on <end>",
            "(it's|it is) too dark in the {room} [can you turn on the {device}]",
        ),
        weight=1.2,
    ),
    "light_off": Intent(
        "light",
        (
            "<ask> (turn|switch) off the {device} [in the {room}] <end>",
            "<ask> (turn|switch) the [{room}] {device} off <end>",
            "(it's|it is) too bright in the {room} [can you turn off the {device}]",
        ),
        weight=1.2,
    ),
    "light_level": Intent(
        "light",
        (
            "<ask> (dim|set|brighten) the [{room}] {device} to {level} <end>",
            "<ask> set the {device} in the {room} to {level} <end>",
        ),
    ),
    "light_color": Intent(
        "light",
        (
            "<ask> (make|turn|change|set) the [{room}] {device} [to] {color} <end>",
            "<ask> (change|set|turn) the {device} in the {room} to {color} <end>",
        ),
        weight=1.2,
    ),
    "volume_up": Intent(
        "volume",
        (
            "<ask> (turn|bring) (up the volume|the volume up|the music up|it up) [a little|a bit] [<in_room>]",
            "<ask> (raise|increase) the volume [a little|a bit|by {level:step}] [<in_room>]",
            "(it's|it is|the music is) (too quiet|not loud enough) [in the {room}]",
            "<ask> (make it|play it|make the music) louder [in the {room}] <end>",
        ),
    ),
    "volume_down": Intent(
        "volume",
        (
            "<ask> (turn|bring) (down the volume|the volume down|the music down|it down) [a little|a bit] [<in_room>]",
            "<ask> (lower|reduce) the volume [a little|a bit|by {level:step}] [<in_room>]",
            "(it's|it is|the music is) (too loud|way too loud) [in the {room}]",
            "<ask> (make it|play it|make the music) (quieter|softer) [in the {room}] <end>",
        ),
    ),
    "volume_set": Intent(
        "volume", ("<ask> (set|change|put) the volume [in the {room}] (to|at) {level:loudness} <end>",)
    ),
    "mute": Intent(
        "volume",
        (
            "<ask> mute (the|my) (speaker|speakers|sound|music) [in the {room}] <end>",
            "<ask> (turn|switch) the sound off [in the {room}] [for {duration}]",
        ),
    ),
    "create_reminder": Intent(
        "calendar",
        (
            "<ask> remind me to {task} [{date}|at {time}|{date} at {time}]",
            "<ask> (set|create|add) a reminder to {task} [{date}|at {time}|in {duration}]",
            "(don't let me|i must not) forget to {task} [{date}|at {time}]",
        ),
        weight=4.0,
    ),
    "create_event": Intent(
        "calendar",
        (
            "<ask> (add|put) (a|my|the) {event} (on|to) my calendar for {date} [at {time}]",
            "<ask> (schedule|plan|book) (a|my|the) {event} [with {person}] for {date} [at {time}]",
            "<ask> (schedule|plan) (a|my|the) {event} with {person} at {time}",
        ),
        weight=1.8,
    ),
    "list_events": Intent(
        "calendar",
        (
            "<tell> (what's|what is) on my (calendar|schedule) [for] {date}?",
            "(when is|what time is) (my|the) {event} [with {person}] [{date}]?",
            "(do i have|is there) (anything|a meeting|an appointment) [with {person}] {date}?",
        ),
    ),
}

GRAMMAR = Grammar(RULES, INTENTS)
