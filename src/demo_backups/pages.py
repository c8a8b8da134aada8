def markdown(plan, records):
    return "x"
