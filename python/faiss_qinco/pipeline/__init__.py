"""From vector files larger than memory to a searched index: stages that can be killed anywhere and
run again, in bounded memory, with files in between."""
