"""Files and objects of other systems, as headers and arrays: nothing here knows what is made of
them."""
