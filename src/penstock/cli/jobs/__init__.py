"""Looking after durable jobs from a terminal or a script: one room for each command, and those that they share.

    store     which store is meant, and what to say when it can't be reached
    find      jobs by the beginning of their ids, kinds of failures by their print or type
    printable what comes out of a store, made harmless
    place     where an error came from
    times     lengths and points of time, for people and for programs
    fields    records as JSON
    page      lines and tables, for terminals and for pipes

Each command's room has its work, which takes an engine and gives values, and below it what people and programs see.
"""
