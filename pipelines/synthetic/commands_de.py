"""German commands to a smart speaker: commands_en.py, line by line. How to read a line: grammar.py, and parallel.py.

Commands are infinitives ("bitte das licht anmachen", "kannst du das licht anmachen"), which lets one line serve with
and without a modal verb. German has cases where English has one word: `TRANSLATES` says which rules are those.
The rules do not agree with each other on their own ("im" and "küche"): sentences are drawn in English, and translated.
"""

from __future__ import annotations

from pipelines.synthetic import commands_en
from pipelines.synthetic.bilingual_grammar import Parallel
from pipelines.synthetic.grammar import Grammar, Intent

TRANSLATES = {
    "adjective_n": "adjective",
    "adjective_m": "adjective",
    "part_after_tomorrow": "part",
    "hour_clock": "hour",
    "hour_next": "hour",
    "tens_five": "tens",
    "duration_dative": "duration",
    "in_the": "room",
    "the_device": "device",
    "the_dish": "dish",
    "a_event": "event",
    "my_event": "event",
    "the_event": "event",
    "my_event_is": "event",
    "the_event_is": "event",
    "person_dative": "person",
}

RULES = {
    # Carrier phrases.
    "ask": "[bitte|kannst du|könntest du|würdest du]",
    "tell": "[sag mal|sag mir doch]",
    "end": "[bitte|jetzt|danke|für mich]",
    # Slots.
    "artist": "<first> <last>|die <adjective> <animals>",
    "song": "(tanzen|laufen|träumen|warten|fallen) <where>"
    "|(<adjective_n> herz|<adjective_m> fluss|<adjective_m> traum)",
    "genre": "jazz|rock|blues|country|disco|oper|techno|reggae|hip hop|heavy metal",
    "city": "london|paris|berlin|madrid|tokio|boston|chicago|dublin|toronto|sydney|new york|kapstadt",
    "date": "heute|morgen|heute abend|<weekday>|nächsten <weekday>|dieses wochenende|den <ordinal> <month>"
    "|nächste woche|morgen <part_after_tomorrow>|<weekday> <part>",
    "time": "<hour>|<hour_clock> (uhr|uhr dreißig|uhr fünfzehn|uhr fünfundvierzig)"
    "|(halb <hour_next>|viertel nach <hour>|viertel vor <hour>)|zwölf uhr mittags|mitternacht"
    "|<hour_clock> uhr (morgens|nachmittags|abends)",
    "duration": "<count> (minuten|sekunden|stunden)|eine stunde|eine halbe stunde|eine minute|anderthalb stunden",
    "interval": "<count> (minuten|sekunden|stunden)|ein (minuten|stunden)|halbstunden",
    "room": "küche|schlafzimmer|badezimmer|wohnzimmer|flur|garage|garten|büro|keller|esszimmer",
    "device": "lichter|lampe|licht|schreibtischlampe|stehlampe|deckenlampe|strahler",
    "color": "rot|blau|grün|gelb|orange|lila|weiß|warmweiß",
    "level": "<tens> prozent|<tens_five> prozent|hundert prozent|maximum|minimum|die hälfte",
    "loudness": "stufe (eins|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn)|<tens> prozent|maximum|die hälfte",
    "step": "<tens> prozent|die hälfte",
    "topic": "sport|politik|wirtschaft|technik|wissenschaft|fußball|tennis|reisen",
    "event": "geburtstagsfeier|hochzeit|(teamtreffen|schultreffen)|(zahnarzttermin|arzttermin)|friseurtermin|yogakurs"
    "|klavierstunde|vorstellungsgespräch|(mittagessen|abendessen|frühstück)|telefonkonferenz",
    "task": "2(milch|brot|eier|blumen|kaffee|käse) zu kaufen"
    "|<person> (anzurufen|zu besuchen)|die (miete|rechnungen) zu bezahlen|(die katze|den hund|die fische) zu füttern"
    "|(die pflanzen|die blumen|den garten) zu gießen|(das auto|die fenster|die küche|das bad) zu putzen"
    "|den müll rauszubringen|(die kinder|die wäsche) abzuholen|(den flug|das hotel) zu buchen|meine medizin zu nehmen",
    "person": "mama|papa|oma|(meinen bruder|meine schwester)|<first>|<first> <last>",
    # Parts of slots.
    "first": commands_en.RULES["first"],
    "last": commands_en.RULES["last"],
    "adjective": "silbernen|goldenen|stillen|elektrischen",
    "animals": "füchse|tiger|fremden|matrosen",
    "where": "im regen|durch die nacht|unter den sternen|mit dir|zurück nach hause|am meer",
    "weekday": "montag|dienstag|mittwoch|donnerstag|freitag|samstag|sonntag",
    "part": "morgen|nachmittag|abend|nacht",
    "month": "januar|februar|märz|april|mai|juni|juli|august|september|oktober|november|dezember",
    "ordinal": "ersten|zweiten|dritten|vierten|fünften|sechsten|zehnten|zwölften|zwanzigsten",
    "hour": "eins|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|elf|zwölf",
    "count": "zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|zwölf|fünfzehn|zwanzig|dreißig|vierzig|fünfzig"
    "|fünfundzwanzig|neunzig",
    "tens": "zehn|zwanzig|dreißig|vierzig|fünfzig|sechzig|siebzig|achtzig|neunzig",
    "dish": "nudeln|pizza|reis|tee|eier",
    "in_room": "<in_the> {room}",
    # The same words in other cases, and their articles.
    "adjective_n": "silbernes|goldenes|stilles|elektrisches",
    "adjective_m": "silberner|goldener|stiller|elektrischer",
    "part_after_tomorrow": "früh|nachmittag|abend|nacht",
    "hour_clock": "ein|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|elf|zwölf",
    "hour_next": "zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|elf|zwölf|eins",
    "tens_five": "fünfzehn|fünfundzwanzig|fünfunddreißig|fünfundvierzig|fünfundfünfzig|fünfundsechzig"
    "|fünfundsiebzig|fünfundachtzig|fünfundneunzig",
    "duration_dative": "<count> (minuten|sekunden|stunden)|einer stunde|einer halben stunde|einer minute"
    "|anderthalb stunden",
    "in_the": "in der|im|im|im|im|in der|im|im|im|im",
    "the_device": "die|die|das|die|die|die|die",
    "the_dish": "die|die|den|den|die",
    "a_event": "eine|eine|ein|einen|einen|einen|eine|ein|ein|eine",
    "my_event": "meine|meine|mein|meinen|meinen|meinen|meine|mein|mein|meine",
    "the_event": "die|die|das|den|den|den|die|das|das|die",
    "my_event_is": "meine|meine|mein|mein|mein|mein|meine|mein|mein|meine",
    "the_event_is": "die|die|das|der|der|der|die|das|das|die",
    "person_dative": "mama|papa|oma|(meinem bruder|meiner schwester)|<first>|<first> <last>",
}

FORMS = {
    "play_music": (
        "<ask> 1[etwas] {genre} 2[musik] spielen <end>",
        "<ask> {song} 2[von {artist}] 3[<in_the> {room}] 1(spielen|auflegen)",
        "<ask> (etwas|ein lied|das neue album|musik|die besten lieder) von {artist} spielen <end>",
        "(ich will|lass uns|ich möchte) (etwas {genre}|{song}|{artist}) hören",
        "<ask> etwas {genre} 2[musik] <in_the> {room} 1(spielen|auflegen|starten)",
        "<ask> {artist} [<in_the> {room}] spielen <end>",
    ),
    "pause_music": (
        "<ask> 3(2(die|diese|meine) musik|2(das|dieses|mein) lied|2(den|diesen|meinen) titel|2(das|dieses|mein) album"
        "|2(die|diese|meine) playlist) 4[<in_the> {room}] 1(pausieren|stoppen) <end>",
    ),
    "skip_song": (
        "<ask> 3(2(dieses|das) lied|2(diesen|den) titel|2(dieses|das) stück) 1(überspringen|auslassen) <end>",
        "<ask> 2(1(das nächste|zum nächsten|zum nächsten|zum nächsten) lied"
        "|1(den nächsten|zum nächsten|zum nächsten|zum nächsten) titel"
        "|1(das nächste|zum nächsten|zum nächsten|zum nächsten) stück)"
        " 3[<in_the> {room}] 1(spielen|gehen|springen|wechseln) <end>",
    ),
    "song_info": (
        "<tell> 2(was ist das für ein lied|was ist das für ein titel|wie heißt dieses lied|was läuft)"
        " 3[<in_the> {room}] 4[gerade]?",
        "(wer|welche band) (singt|spielt|schrieb) (dieses lied|diesen titel|dieses album|{song})?",
        "<tell> (welches lied|welches album|welcher titel) ist das [von {artist}]?",
    ),
    "like_song": (
        "<ask> 2(dieses lied|diesen titel|dieses album) zu meinen 3[{genre}] 4(playlists|favoriten)"
        " 1(speichern|hinzufügen) <end>",
        "ich (liebe|mag wirklich|mag) (dieses lied|diesen titel|dieses album) [von {artist}] [danke]",
    ),
    "get_weather": (
        "<tell> wie ist 2(das wetter|die vorhersage|die temperatur) 4(in|für) {city} 5[{date}]?",
        "<tell> wie wird (das wetter|die temperatur) (in {city} [{date}]|{date} [in {city}])?",
        "wie ist das wetter 2(in {city} [{date}]|{date})?",
        "<ask> 2(das wetter|die vorhersage|den wetterbericht) für 3({city} [{date}]|{date}) 1(nennen|zeigen|vorlesen)",
    ),
    "check_rain": (
        "wird es 3[in {city}] {date} 2(regnen|schneien|(sonnig|windig|kalt|warm|bewölkt) sein)?",
        "1(brauche|benötige) ich 3({date} [in {city}]|in {city}) 2(einen schirm|einen mantel|eine jacke)?",
    ),
    "get_news": (
        "<tell> was 2(gibt es neues|passiert|ist los) beim thema {topic} 3[heute]?",
        "<ask> die 2[neuesten|morgendlichen|abendlichen|lokalen] {topic} 3(nachrichten|schlagzeilen)"
        " 1(vorlesen|abspielen|nennen|erzählen) <end>",
        "<tell> die 1[neuesten] 2(nachrichten|schlagzeilen) 3(über|zu) {topic} 4[aus {city}] <end>",
        "<ask> die 2(neuesten|lokalen|morgendlichen|abendlichen) 3(nachrichten|schlagzeilen) aus {city}"
        " 1(vorlesen|abspielen|nennen) <end>",
    ),
    "stop_news": (
        "<ask> das 2(vorlesen|abspielen) der 3[neuesten|{topic}] 4(nachrichten|schlagzeilen)"
        " 1(stoppen|pausieren|überspringen|abbrechen|beenden) <end>",
        "das sind genug {topic} 2(nachrichten|schlagzeilen) 3[für heute|fürs erste|danke]",
    ),
    "set_alarm": (
        "<ask> (einen|meinen|den|noch einen) wecker für {time} [{date}] stellen <end>",
        "<ask> mich 2[{date}] um {time} 1(wecken|aufwecken)",
        "<ask> (mich {date} um {time} wecken|{date} um {time} einen wecker stellen)",
        "ich 1(muss|sollte|will) 3[{date}] um {time} 2(aufwachen|aufstehen)",
    ),
    "cancel_alarm": (
        "<ask> 2(meinen|den) {time} wecker 3[{date}] 1(abbrechen|löschen|entfernen|ausmachen|abschalten) <end>",
        "<ask> 2(meinen|den) wecker 3(für|um) {time} 1(abbrechen|löschen|entfernen|ausmachen) <end>",
        "<ask> 2(meinen wecker|den wecker|alle wecker) 3(für|am) {date:weekday} 1(abbrechen|löschen|entfernen) <end>",
    ),
    "list_alarms": (
        "<tell> welche wecker 2(habe ich|sind gestellt|sind an) 3[für {date}]?",
        "(wann ist|um wie viel uhr ist) mein (nächster|erster) wecker [{date}]?",
        "(habe ich|gibt es|gibt es) (irgendwelche wecker|einen wecker) (gestellt für|für) ({date}|{time})?",
    ),
    "start_timer": (
        "<ask> 2(einen|den|noch einen) timer für {duration} 1(stellen|starten) <end>",
        "<ask> 2(einen|noch einen) {duration:interval} timer 3[<in_the> {room}] 1(stellen|starten) <end>",
        "<ask> {duration} 2[für <the_dish> <dish>] 1(messen|herunterzählen) <end>",
    ),
    "cancel_timer": (
        "<ask> 2(den|meinen|diesen) 3[{duration:interval}] timer 4[<in_the> {room}]"
        " 1(abbrechen|stoppen|löschen|beenden|zurücksetzen) <end>",
        "<ask> den timer für <the_dish> <dish> (abbrechen|stoppen|löschen) <end>",
    ),
    "timer_left": (
        "<tell> (wie viel zeit ist|wie viele minuten sind) noch auf (dem|meinem) [{duration:interval}|<dish>] timer?",
        "(wie viel länger|wie lange) (läuft|geht|dauert) (der|mein) [{duration:interval}|<dish>] timer"
        " [<in_the> {room}]?",
    ),
    "light_on": (
        "<ask> <the_device> {device} 2[<in_the> {room}] 1(anmachen|anschalten) <end>",
        "<ask> <the_device> {device} 2[<in_the> {room}] 1(anmachen|einschalten) <end>",
        "es ist zu dunkel <in_the> {room} 2[kannst du <the_device> {device} anmachen]",
    ),
    "light_off": (
        "<ask> <the_device> {device} 2[<in_the> {room}] 1(ausmachen|abschalten) <end>",
        "<ask> <the_device> {device} 2[<in_the> {room}] 1(ausmachen|ausschalten) <end>",
        "es ist zu hell <in_the> {room} 2[kannst du <the_device> {device} ausmachen]",
    ),
    "light_level": (
        "<ask> <the_device> {device} 2[<in_the> {room}] auf {level} 1(dimmen|stellen|aufhellen) <end>",
        "<ask> <the_device> {device} <in_the> {room} auf {level} stellen <end>",
    ),
    "light_color": (
        "<ask> <the_device> {device} 2[<in_the> {room}]"
        " 1({color} machen|auf {color} schalten|auf {color} ändern|auf {color} stellen) <end>",
        "<ask> <the_device> {device} <in_the> {room} auf {color} (ändern|stellen|schalten) <end>",
    ),
    "volume_up": (
        "<ask> 2(die lautstärke|die lautstärke|die musik|es) 3[etwas|ein bisschen] 4[<in_room>]"
        " 1(hochdrehen|hochstellen)",
        "<ask> die lautstärke 2[etwas|ein bisschen|um {level:step}] 3[<in_room>] 1(anheben|erhöhen)",
        "(es ist|das ist|die musik ist) (zu leise|nicht laut genug) [<in_the> {room}]",
        "<ask> 1(es|das stück|die musik) 2[<in_the> {room}] lauter 1(machen|spielen|machen) <end>",
    ),
    "volume_down": (
        "<ask> 2(die lautstärke|die lautstärke|die musik|es) 3[etwas|ein bisschen] 4[<in_room>]"
        " 1(runterdrehen|runterstellen)",
        "<ask> die lautstärke 2[etwas|ein bisschen|um {level:step}] 3[<in_room>] 1(senken|reduzieren)",
        "(es ist|das ist|die musik ist) (zu laut|viel zu laut) [<in_the> {room}]",
        "<ask> 1(es|das stück|die musik) 3[<in_the> {room}] 2(leiser|sanfter) 1(machen|spielen|machen) <end>",
    ),
    "volume_set": ("<ask> die lautstärke 2[<in_the> {room}] auf {level:loudness} 1(stellen|ändern|setzen) <end>",),
    "mute": (
        "<ask> 2(1(den|meinen) lautsprecher|1(die|meine) lautsprecher|1(den|meinen) ton|1(die|meine) musik)"
        " 3[<in_the> {room}] stummschalten <end>",
        "<ask> den ton 2[<in_the> {room}] 3[für {duration}] 1(ausmachen|ausschalten)",
    ),
    "create_reminder": (
        "<ask> mich [{date}|um {time}|{date} um {time}] daran erinnern {task}",
        "<ask> 2[{date}|um {time}|in {duration:duration_dative}] eine erinnerung 1(stellen|erstellen|hinzufügen)"
        " {task}",
        "(lass mich|ich darf) [{date}|um {time}] nicht vergessen {task}",
    ),
    "create_event": (
        "<ask> 2(<a_event>|<my_event>|<the_event>) {event} für {date} 4[um {time}] in meinen kalender"
        " 1(eintragen|setzen)",
        "<ask> 2(<a_event>|<my_event>|<the_event>) {event} 3[mit {person:person_dative}] für {date} 4[um {time}]"
        " 1(ansetzen|planen|buchen)",
        "<ask> 2(<a_event>|<my_event>|<the_event>) {event} mit {person:person_dative} um {time} 1(ansetzen|planen)",
    ),
    "list_events": (
        "<tell> was steht 3[für] {date} 2(in meinem kalender|in meinem terminplan)?",
        "(wann ist|um wie viel uhr ist) (<my_event_is>|<the_event_is>) {event} [mit {person:person_dative}] [{date}]?",
        "(habe ich|gibt es) {date} (irgendetwas|ein treffen|einen termin) [mit {person:person_dative}]?",
    ),
}

GRAMMAR = Grammar(
    RULES,
    {name: Intent(given.domain, FORMS[name], given.weight) for name, given in commands_en.INTENTS.items()},
)
PARALLEL = Parallel(commands_en.GRAMMAR, GRAMMAR, TRANSLATES)
